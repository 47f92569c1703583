"""The feature job's report: an HTML page in the folder of the encoding."""
