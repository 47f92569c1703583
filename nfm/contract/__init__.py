"""What every stage shares: fields, vocabulary, encoder, artifact, publish. Needs numpy and pyarrow only."""
