"""Python imports this first: it signals at a chosen point of a run, so that no test waits by time.

STOP_AT is `import NAME` (when a module of that name begins to be imported), `replace TEXT N` (the
N-th `os.replace` to a path that contains TEXT, before it is done) or `fsync N`. STOP_BY is the
signal, STOP_WHO whether it goes to this process (`self`), its `group` or its `parent`. STOP_RANK
limits it to the worker of that rank.
"""

import os
import sys


def stop():
    import signal  # here: the first lines of a command run without it

    number = signal.Signals[os.environ["STOP_BY"]]
    who = os.environ.get("STOP_WHO", "self")
    if who == "group":
        os.killpg(0, number)
    else:
        os.kill(os.getppid() if who == "parent" else os.getpid(), number)
    if who == "parent":
        signal.pause()  # this process must be ended by somebody else


class Finder:
    def __init__(self, name):
        self.name = name

    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            self.name = None
            stop()


def counted(function, text, n):
    calls = 0

    def call(*arguments, **options):
        nonlocal calls
        calls += text in str(arguments[-1])
        if calls == n and text in str(arguments[-1]):
            stop()
        return function(*arguments, **options)

    return call


kind, *rest = os.environ.get("STOP_AT", "never").split()
if os.environ.get("STOP_RANK", os.environ.get("RANK")) != os.environ.get("RANK"):
    kind = "never"
if kind == "import":
    sys.meta_path.insert(0, Finder(rest[0]))
elif kind == "replace":
    os.replace = counted(os.replace, rest[0], int(rest[1]))
elif kind == "fsync":
    os.fsync = counted(os.fsync, "", int(rest[0]))
