"""Read Parquet files in tasks, with exact conversions of types."""
