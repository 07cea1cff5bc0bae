"""Exceptions of the package: every one of them is a single line for its user."""

from __future__ import annotations

from robustbench_lite.core.plain_text import plain


class ResultError(ValueError):
    """A stored result, or a request about results, that cannot be used as it is.

    The message names the file or the request, what was wrong, the value got and what is allowed.
    It is one line whatever stands in a file or its name.
    """

    def __init__(self, message: str) -> None:
        super().__init__(plain(message))


class InputError(ValueError):
    """Wrong input from outside: says what was wrong, the value got, what is allowed, what to do.

    The command line prints the message alone, without a traceback, and exits with code 2.
    """


__all__ = ["DamagedFileError", "InputError", "LedgerMismatchError", "StorageError"]


class DamagedFileError(InputError):
    """A stored file is not as it was written; the message names it and says what to do."""


class LedgerMismatchError(InputError):
    """A result or run folder was begun under other terms; the message lists the differences."""


class StorageError(InputError):
    """A file could not be written (full disk, no permission); what was finished is kept."""
