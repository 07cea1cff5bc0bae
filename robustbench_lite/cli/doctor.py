"""`rbl doctor`: what a bug report needs to say of the machine and the installation."""

from __future__ import annotations

import argparse
import os
import platform
from importlib import metadata

_OPTIONAL = (
    "pytest",
    "hypothesis",
    "ruff",
    "mypy",
    "timm",
    "torchvision",
    "foolbox",
    "robustbench",
)


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rbl doctor`."""


def run(arguments: argparse.Namespace) -> None:
    """Print versions, devices, threads, CPU capability, cache folders and optional packages."""
    del arguments
    rows = {**_versions(), **_machine(), **_folders(), "optional packages": _optional()}
    width = max(map(len, rows))
    for name, text in rows.items():
        print(f"{name:<{width}}  {text}")


def _versions() -> dict[str, str]:
    from robustbench_lite.core.provenance import current_versions, git_commit

    return {**current_versions(), "commit": git_commit() or "installed, not a checkout"}


def _machine() -> dict[str, str]:
    system = {"system": f"{platform.platform()}, {platform.machine()}", "CPU": _processor()}
    try:
        return system | _torch()
    except (ImportError, OSError) as error:  # a broken installation is what doctors are for
        return system | {"torch": f"cannot be imported: {str(error).splitlines()[0]}"}


def _torch() -> dict[str, str]:
    import torch

    from robustbench_lite.core.numerics import device_name

    devices = [device_name(torch.device(f"cuda:{i}")) for i in range(torch.cuda.device_count())]
    if torch.cuda.is_available():
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        cuda = f"{torch.version.cuda}, cuDNN {cudnn}: {', '.join(devices)}"
    else:
        built = torch.version.cuda
        cuda = f"none found (torch was built for CUDA {built})" if built else "torch has no CUDA"
    variables = [f"{name}={os.environ[name]}" for name in sorted(os.environ) if _matters(name)]
    return {
        "CPU capability": device_name(torch.device("cpu")),
        "CPU threads": f"{torch.get_num_threads()}",
        "CUDA": cuda,
        "environment": ", ".join(variables) or "nothing that changes numbers is set",
    }


def _matters(variable: str) -> bool:
    """Whether a variable changes numbers or their speed."""
    return variable.startswith(("ATEN_CPU_", "CUBLAS_", "CUDA_VISIBLE", "MKL_", "OMP_", "TORCH_"))


def _processor() -> str:
    """The processor's name; on Linux `platform.processor` does not tell it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    except OSError:
        names = []
    name = names[0] if names else platform.processor() or "unknown"
    return f"{name}, {os.cpu_count()} logical cores"


def _folders() -> dict[str, str]:
    from robustbench_lite.datasets.loading import CACHE_VARIABLE, cache_folder

    folder = cache_folder(None)
    state = "exists" if folder.is_dir() else "not there yet"
    return {"data cache": f"{folder} ({state}; {CACHE_VARIABLE} chooses another)"}


def _optional() -> str:
    found = []
    for name in _OPTIONAL:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found) or "none"
