"""Write a first configuration for a table: inspect a sample of its rows and choose a role for each column."""
