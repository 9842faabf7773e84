"""The base of every error that a user can mend: its message says what was wrong, what was found and what to do."""


class JaxdreamerError(Exception):
    """Base of the library's errors. The command line prints the message of one alone; anything else is a traceback."""
