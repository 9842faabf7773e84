"""Views of an agent's networks, and the compiled functions behind them."""
