"""Environments stepped by Python on the host; no module of it imports jax."""
