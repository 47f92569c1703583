"""Read raw tables in Spark tasks and write Parquet files, for the feature job and the score job."""
