"""The loop for environments made of pure functions: one compiled program."""
