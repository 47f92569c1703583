"""Metrics of each model task, computed in one pass over a fold."""
