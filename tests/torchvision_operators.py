"""Lets torchvision be imported beside a torch whose C++ library it was not built for.

Its operators are declared by name, without code: networks for classification use none of them.
"""

import re

import torch

_LIBRARIES = []  # a library that is collected takes its operators along


def declare() -> None:
    """Declare every operator that importing torchvision asks for, one after the other."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    _LIBRARIES.append(library)
    declared: set[str] = set()
    while True:
        try:
            import_torchvision()
            return
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None or missing.group(1) in declared:
                raise
            declared.add(missing.group(1))
            library.define(f"{missing.group(1)}(Tensor x) -> Tensor")


def import_torchvision() -> None:
    """Import it anew: a failed import leaves parts behind."""
    import importlib
    import sys

    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    importlib.import_module("torchvision")
