"""Read raw tables in Spark tasks, and write files; shared by the feature job and the score job."""
