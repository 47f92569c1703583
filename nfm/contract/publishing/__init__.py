"""Publish folders so that a reader sees one publication, and read folders that are published meanwhile."""
