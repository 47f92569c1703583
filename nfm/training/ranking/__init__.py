"""Training of the ranking task: pairs of users and items, negatives, evaluation over the catalogue."""
