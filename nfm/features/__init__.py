"""The feature job: Spark counts, splits and writes the dataset."""
