"""What people see of a training: the HTML page beside the model, the summary, TensorBoard's event files."""
