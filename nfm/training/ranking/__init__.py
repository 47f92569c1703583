"""Training of the ranking task: pairs of items, negatives, evaluation over the catalogue."""
