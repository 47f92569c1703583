"""Join the interactions of a ranking with their users, items and histories into one table, which is then encoded."""
