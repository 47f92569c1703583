"""Output for people: the HTML page beside the model, the summary, TensorBoard's event files."""
