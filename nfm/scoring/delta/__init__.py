"""Scores in a Delta table."""
