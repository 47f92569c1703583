"""The dataset on disk → rows and batches in memory."""
