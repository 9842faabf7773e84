"""What is written down: run folders, checkpoints, metrics, progress, films, curves."""
