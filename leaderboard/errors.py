"""The one exception of the leaderboard: its message is the single line a user reads."""

from robustbench_lite.core.plain_text import plain


class ResultError(ValueError):
    """A stored result, or a request about results, that cannot be used as it is.

    The message names the file or the request, what was wrong, the value got and what is allowed.
    It is one line whatever stands in a file or its name.
    """

    def __init__(self, message: str) -> None:
        super().__init__(plain(message))
