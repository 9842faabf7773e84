"""Experience in and out: a run's replay as episodes, and episodes that others recorded."""
