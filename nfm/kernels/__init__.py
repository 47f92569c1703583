"""Loops compiled by numba: pooling, dense layers, table updates. Imports only numpy and numba."""
