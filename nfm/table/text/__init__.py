"""Text files (CSV, JSON, XML): tasks read every byte, Spark divides the rows into texts, expressions convert them."""
