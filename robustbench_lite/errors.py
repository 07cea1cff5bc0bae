"""Exceptions of the package: every one of them is a single line for its user."""

from robustbench_lite.attacks.errors import InputError

__all__ = ["DamagedFileError", "InputError", "LedgerMismatchError", "StorageError"]


class DamagedFileError(InputError):
    """A stored file is not as it was written; the message names it and says what to do."""


class LedgerMismatchError(InputError):
    """A result or run folder was begun under other terms; the message lists the differences."""


class StorageError(InputError):
    """A file could not be written (full disk, no permission); what was finished is kept."""
