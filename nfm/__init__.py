"""Neural Factorization Machines for tables of categories: features, training and batch scoring."""

__version__ = "0.1.0"
