"""Python imports this first: it signals at a chosen point of a run, so that no test waits by time.

STOP_AT is `import NAME` (when a module of that name begins to be imported), `replace TEXT N` (the
N-th `os.replace` to a path that contains TEXT, before it is done) or `fsync N`. STOP_BY is the
signal, STOP_WHO whether it goes to this process (`self`), its `group` or its `parent`. STOP_RANK
limits it to the worker of that rank; the others then wait on the named pipe STOP_PIPE, if there is
one, at their first `os.replace` to such a path, until that worker is dead. It waits there, at its
first, until another has come: so each of two workers has work at the same time.
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


def counted(function, text, n, first=lambda: None):
    """The function, but `first` runs before its first counted call, and `stop` before its n-th."""
    calls = 0

    def call(*arguments, **options):
        nonlocal calls
        if text in str(arguments[-1]):
            calls += 1
            if calls == 1:
                first()
            if calls == n:
                stop()
        return function(*arguments, **options)

    return call


def hold():
    held.append(os.open(os.environ["STOP_PIPE"], os.O_WRONLY))  # closed when the process ends


def wait():
    with open(os.environ["STOP_PIPE"], "rb") as pipe:
        pipe.read()


kind, *rest = os.environ.get("STOP_AT", "never").split()
rank, held = os.environ.get("RANK"), []
together = rank is not None and "STOP_PIPE" in os.environ
if os.environ.get("STOP_RANK", rank) != rank:
    if together:
        os.replace = counted(os.replace, rest[0], 0, wait)
    kind = "never"
if kind == "import":
    sys.meta_path.insert(0, Finder(rest[0]))
elif kind == "replace":
    first = hold if together else lambda: None
    os.replace = counted(os.replace, rest[0], int(rest[1]), first)
elif kind == "fsync":
    os.fsync = counted(os.fsync, "", int(rest[0]))
