"""Environments made of pure functions, which run inside the compiled program: the only room of envs that imports jax."""
