"""Read rows and batches from the dataset on disk."""
