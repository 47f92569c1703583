"""The training report: one HTML page beside the model."""
