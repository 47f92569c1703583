"""Shared by all jobs: fields, vocabulary, encoder, model, publishing. Needs numpy and pyarrow only."""
