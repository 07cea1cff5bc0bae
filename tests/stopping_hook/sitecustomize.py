"""Python imports this at its start where this folder is on PYTHONPATH: kills a run at a set step.

A test that watches a run and kills it from outside is a race: the run may be faster. Here the run
kills itself with SIGKILL just before it renames a file to its final name. `RBL_TEST_STOP` says
when, as JSON:

    files: regular expression, searched in the final path.
    after: how many such files the process writes before; it dies at the next.
    rank: which worker dies, as in `RANK`; null for a process that is alone.
    pipe: a named pipe on which the other workers wait at their first such file, until the one that
        dies is dead. That one waits at its first until another has come. null for nobody.
"""

import json
import os
import re
import signal
import sys


def _install(stop, rank):
    written, held = 0, []

    def hook(event, arguments):
        nonlocal written
        if event != "os.rename" or not re.search(stop["files"], os.fsdecode(arguments[1])):
            return
        written += 1
        if written == 1 and stop["pipe"]:
            if rank == stop["rank"]:
                held.append(os.open(stop["pipe"], os.O_WRONLY))  # until the process ends
            else:
                with open(stop["pipe"], "rb") as pipe:
                    pipe.read()
        if written > stop["after"] and rank == stop["rank"]:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


_stop = json.loads(os.environ.get("RBL_TEST_STOP", "null"))
_rank = os.environ.get("RANK")
if _stop and (_rank == _stop["rank"] or (_rank is not None and _stop["pipe"])):
    _install(_stop, _rank)
