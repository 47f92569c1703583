"""The feature job's report: one HTML page beside the encoding."""
