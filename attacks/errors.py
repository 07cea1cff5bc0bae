"""The one exception for wrong input: its message is the single line a user reads."""


class InputError(ValueError):
    """Wrong input from outside: says what was wrong, the value got, what is allowed, what to do.

    The command line prints the message alone, without a traceback, and exits with code 2.
    """
