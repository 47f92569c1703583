"""Shared by all stages: fields, vocabulary, encoder, artifact, publish. Needs numpy and pyarrow only."""
