"""Recommend job (Spark): everybody's list of the best items, from a trained ranking model."""
