"""Text files (CSV, JSON, XML): Spark parses them, after tasks have read every byte."""
