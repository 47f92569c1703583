"""Code that several Spark jobs share: chunks of a run, the model on hosts, the tables of users and items."""
