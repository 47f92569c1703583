"""Metrics of each task, computed in one pass over a fold."""
