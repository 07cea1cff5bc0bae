"""Do a ledger's AutoAttack verdicts equal a direct pyautoattack run on the same chunk?

    rbl train mnist_pgd_at --data-dir DIR
    rbl evaluate runs/mnist_pgd_at/best --protocol linf_standard --eps 0.15 --n 100 --data-dir DIR \
        --out runs/mnist_aa
    python benchmarks/reference_agreement.py runs/mnist_pgd_at/best runs/mnist_aa --data-dir DIR
"""

import argparse
from pathlib import Path

import pandas
import torch
from pyautoattack import AutoAttack

from robustbench_lite import load_split, resolve_model
from robustbench_lite.attacks.threat_model import parse_eps
from robustbench_lite.core.numerics import deterministic, plain_numerics
from robustbench_lite.evaluation.header import read_header
from robustbench_lite.evaluation.ledger import Ledger


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("result", type=Path)
    parser.add_argument("--data-dir")
    parser.add_argument("--chunk", type=int, default=0)
    arguments = parser.parse_args()
    header = read_header(arguments.result)
    terms, settings = header.identity, header.settings
    data = load_split(
        terms["dataset"]["name"], terms["dataset"]["split"], data_dir=arguments.data_dir
    )
    size = settings["chunk_size"]
    end = min((arguments.chunk + 1) * size, terms["examples"]["count"])
    ids = torch.arange(arguments.chunk * size, end)
    x, y = data.pixels(ids), data.labels[ids]
    model = resolve_model(arguments.checkpoint, allow_code=False, device="cpu").model
    with deterministic(threads=settings["threads"], seed=0), plain_numerics():
        attack = AutoAttack(
            model,
            norm=terms["protocol"]["norm"],
            eps=float(parse_eps(terms["protocol"]["eps"])),
            seed=terms["seed"],
            device="cpu",
        )
        x_adv, _ = attack.run_standard_evaluation(x, y, batch_size=settings["batch_size"])
        with torch.no_grad():
            robust = model(x_adv).argmax(1) == y
    ledger = Ledger(arguments.result, header)
    clean = ledger.read_part("clean", arguments.chunk)
    rows = ledger.read_part("aa_standard", arguments.chunk)
    ours = pandas.Series(~clean.broken.to_numpy(), index=clean.example_id)
    ours[rows.example_id] &= ~rows.broken.to_numpy()
    differing = [int(i) for i, a in ours.items() if a != bool(robust[i - ids[0]])]
    print(f"{len(ids)} images, robust: ledger {ours.sum()}, direct {int(robust.sum())}")
    print(f"differing verdicts: {len(differing)} {differing}")


if __name__ == "__main__":
    main()
