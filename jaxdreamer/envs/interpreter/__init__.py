"""Processes in another Python interpreter, with libraries that do not fit beside this one's; and environments in them."""
