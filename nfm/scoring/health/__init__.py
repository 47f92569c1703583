"""Health report of a score run: counts per task, drift, gates, HTML page."""
