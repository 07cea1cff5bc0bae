"""Listing names loads nothing heavy: one process is asked after each step."""

import json
import subprocess
import sys

STEPS = {
    "data sets": "from robustbench_lite.datasets import DATASETS, dataset_info\n"
    "[DATASETS.load(name) for name in DATASETS]\n"
    "[dataset_info(name) for name in ('cifar10c:fog:3', 'medmnist:pathmnist')]",
    "outliers": "from robustbench_lite.datasets.outliers.sources import OUTLIERS\n"
    "assert len(list(OUTLIERS)) == 15",
    "sources of networks": "from robustbench_lite.checkpoints.sources import SOURCES\n"
    "assert len(list(SOURCES.items())) == 6",
    "models": "from robustbench_lite.models import MODELS; list(MODELS.items())",
    "label losses": "from robustbench_lite.defenses.catalogue import LABEL_LOSSES\n"
    "list(LABEL_LOSSES.items())",
    "imbalances": "from robustbench_lite.datasets.imbalance import IMBALANCES\n"
    "IMBALANCES.load('exp')(100, 5000, 0).counts(10)",
}
HEAVY = ["torch", "torchvision", "numpy", "pyarrow", "pooch", "sklearn", "PIL", "scipy", "requests"]


def test_listing_names_loads_nothing_heavy():
    code = (
        "import json, sys\nloaded = {}\n"
        "for step, code in json.loads(sys.argv[1]).items():\n"
        "    exec(code)\n"
        "    loaded[step] = [name for name in json.loads(sys.argv[2]) if name in sys.modules]\n"
        "print(json.dumps(loaded))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(STEPS), json.dumps(HEAVY)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {step: [] for step in STEPS}
