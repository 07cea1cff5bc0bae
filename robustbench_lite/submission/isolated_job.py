"""The process in which submitted code runs: `python -m` this module, then FOLDER.

FOLDER holds `request.json`; `answer.json` is written beside it.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from robustbench_lite.core.processes import end_with_parent
from robustbench_lite.core.stopping import catch_signals

# Job -> the module whose `job` does it; only that one is imported.
_JOBS = {
    "check": "robustbench_lite.submission.review",
    "run": "robustbench_lite.submission.entry",
    "verify": "robustbench_lite.submission.verification",
}
_NETWORK = (
    "ftplib.connect",
    "http.client.connect",
    "imaplib.open",
    "poplib.connect",
    "smtplib.connect",
    "socket.bind",
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.sendto",
    "urllib.Request",
)


def main(folder: Path) -> None:
    """Do the requested job; every error of the user's becomes a line in the answer."""
    from robustbench_lite.core.allocator import keep_freed_memory
    from robustbench_lite.core.errors import InputError

    keep_freed_memory()
    request: dict[str, Any] = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    job = import_module(_JOBS[request.pop("job")]).job
    sys.addaudithook(_refuse_network)
    try:
        answer = job(request)
    except InputError as error:
        answer = {"error": str(error)}
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


def _refuse_network(event: str, arguments: tuple[object, ...]) -> None:
    del arguments
    if event in _NETWORK:
        raise PermissionError(
            f"submitted code has no network ({event}): put everything it needs into "
            "model.safetensors"
        )


if __name__ == "__main__":
    catch_signals(quiet=True)
    end_with_parent()  # limits are the parent's to enforce
    main(Path(sys.argv[1]))
