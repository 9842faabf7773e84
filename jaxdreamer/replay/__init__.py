"""Experience in a ring, on disk, and as batches for learning. Knows Batch, not networks."""
