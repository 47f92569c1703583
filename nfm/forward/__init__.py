"""Forward pass of a model over plain arrays: the scores of rows, and of pairs of users and items."""
