"""Output for users: the HTML report in the model folder, the summary, and event files for TensorBoard."""
