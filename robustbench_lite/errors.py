"""Exceptions of the package: every one of them is a single line for its user."""

from robustbench_lite.attacks.errors import InputError

__all__ = ["InputError", "LedgerMismatchError", "StorageError"]


class LedgerMismatchError(InputError):
    """A result or run folder was begun under other terms; the message lists the differences."""


class StorageError(InputError):
    """A file could not be written (full disk, no permission); what was finished is kept."""
