"""Dreamer V1 and V2 in JAX."""
__version__ = "0.1.0"
