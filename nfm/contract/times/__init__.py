"""Times of the raw table, and the columns that are derived from them (`columns.time`)."""
