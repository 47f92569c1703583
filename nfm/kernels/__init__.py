"""Compiled loops (numba): pooling, dense layers, table rows. Imports numpy and numba only."""
