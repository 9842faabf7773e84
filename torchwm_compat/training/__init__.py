"""torchwm's ``training``."""
