"""Where a number comes from: package versions and the commit of this package's checkout."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from robustbench_lite import __version__

_DISTRIBUTIONS = ("torch", "numpy", "pandas", "pyarrow", "pyautoattack", "torchattacks")


def current_versions() -> dict[str, str]:
    """Versions of this package, Python and what computes numbers, without importing any of it.

    Returns:
        Name -> version; `"not installed"` for a distribution that is absent.
    """
    versions = {
        "robustbench_lite": __version__,
        "python": platform.python_version(),
    }
    return versions | {name: _version(name) for name in _DISTRIBUTIONS}


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def git_commit() -> str:
    """The commit this package runs from.

    Returns:
        The full hash, with `+dirty.` and a hash of the changes when tracked files have any; `""`
        when the package is installed rather than checked out, git is absent, or there is no
        commit yet.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / "setup.cfg").is_file() or not (root / ".git").exists():
        return ""
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    if not commit:
        return ""
    changes = _git(root, "diff", "HEAD")
    if changes == "":
        return commit
    # What is not known to be clean is dirty; two different sets of changes are told apart.
    known = "" if changes is None else "." + hashlib.sha256(changes.encode()).hexdigest()[:8]
    return f"{commit}+dirty{known}"


def _git(root: Path, *arguments: str) -> str | None:
    """Output of a git command; None when it fails."""
    # GIT_DIR and its like, set inside a hook, would point at another repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
