"""Experience: what environments gave, kept in a ring, on disk, and ready as batches. Knows Batch, not networks."""
