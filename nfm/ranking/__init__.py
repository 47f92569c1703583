"""Recommend job (Spark): the list of best items for every user, from a trained ranking model."""
