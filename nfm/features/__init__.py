"""The feature job: count the values of a raw table, learn the encoding, and write the dataset."""
