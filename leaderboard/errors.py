"""The one exception of the leaderboard: its message is the single line a user reads."""


class ResultError(ValueError):
    """A stored result, or a request about results, that cannot be used as it is.

    The message names the file or the request, what was wrong, the value got and what is allowed.
    """
