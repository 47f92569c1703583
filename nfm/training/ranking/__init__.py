"""Training of the task `ranking`: pairs of an item that a user has and items that the user lacks."""
