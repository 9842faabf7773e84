"""The loop for environments stepped on the host."""
