"""Damages every file of finished folders and counts what reading them then does.

    python benchmarks/damage.py --tries 20000 [--seed 0]

Makes, in a temporary folder, a trained run, its evaluation with images, a transfer measurement and
a submission with its entry, all of digits and small. Then flips bits and bytes, cuts, zeroes and
exchanges the files, one damage a try, and reads each with the code that users run. Counted per
file: refused (one line), computed again (put aside, and made anew from what is left), same result,
other result, traceback. The last two must be 0; the exit code says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from robustbench_lite.attacks.protocol import load_protocol
from robustbench_lite.checkpoints.checkpoint import checkpoint_hash, read_card
from robustbench_lite.checkpoints.model_source import resolve_model
from robustbench_lite.core.errors import DamagedFileError, InputError, ResultError
from robustbench_lite.datasets import load_split
from robustbench_lite.evaluation.evaluate import Settings, evaluate
from robustbench_lite.evaluation.flags.thresholds import read_measured
from robustbench_lite.evaluation.header import read_header
from robustbench_lite.evaluation.ledger import Ledger, open_ledger
from robustbench_lite.leaderboard.plots.training_curves import load_run
from robustbench_lite.leaderboard.results.load import load_result
from robustbench_lite.leaderboard.statistics.per_class import load_per_class
from robustbench_lite.submission.entry import whole_manifest
from robustbench_lite.submission.verification import check_files
from robustbench_lite.training.loop import train
from robustbench_lite.training.recipe import load_recipe
from robustbench_lite.training.run_folder import RunFolder
from robustbench_lite.transfer.evaluate import evaluate_transfer

CPU = torch.device("cpu")
KINDS = ("refused", "computed again", "same result", "other result", "traceback")
EXAMPLE = Path(__file__).resolve().parents[1] / "docs" / "example_submission"
EVALUATED = {"n": 24, "chunk_size": 8}


class Folders:
    """Finished folders, and for each file what a user sees of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = load_split("digits", "test")
        overrides = ["--training.epochs", "1", "--defense.crafting.steps", "1"]
        self.recipe = load_recipe("digits_pgd_at", overrides)
        self.train = load_split("digits", "train")
        for name, seed in (("run", "0"), ("other", "1")):
            recipe = load_recipe("digits_pgd_at", [*overrides, "--training.seed", seed])
            train(recipe, self.train, out=root / name, device=CPU, threads=1)
        self.source = resolve_model(str(root / "run/best"), allow_code=False, device="cpu")
        self.protocol = load_protocol("linf_quick", eps="0.1")
        self.evaluate("result")
        self.evaluate("other_result", seed=1)  # whose files are exchanged for those of the first
        self.transfer()
        shutil.copytree(EXAMPLE, root / "submission")

    def evaluate(self, name: str, seed: int = 0) -> None:
        evaluate(
            self.source,
            self.data,
            self.protocol,
            out=self.root / name,
            n=EVALUATED["n"],
            seed=seed,
            settings=Settings(
                batch_size=8, chunk_size=EVALUATED["chunk_size"], threads=1, evidence="int8"
            ),
            device=CPU,
        )

    def transfer(self) -> object:
        return evaluate_transfer(
            [self.source],
            [resolve_model(str(self.root / "other/best"), allow_code=False, device="cpu")],
            self.data,
            self.protocol,
            self.protocol.attacks[0],
            out=self.root / "transfer",
            n=10,
            seed=0,
            pixels="8bit",
            batch_size=10,
            threads=1,
            device=CPU,
        )

    def transfer_from_parts(self) -> object:
        """As after a kill just before the result was written."""
        (self.root / "transfer/transfer.json").unlink()
        return self.transfer()

    def readers(self) -> dict[Path, Callable[[], object]]:
        """Each file, and how it is read: a function that returns what is seen of it."""
        run, result, root = self.root / "run", self.root / "result", self.root
        header = read_header(result)
        ledger = Ledger(result, header)
        found: dict[Path, Callable[[], object]] = {
            run / "recipe.json": lambda: self.run_folder().recipe,
            run / "state.safetensors": lambda: self.run_folder().load_state(CPU),
            run / "metrics.jsonl": lambda: load_run(run).curves,
            result / "header.json": lambda: (
                open_ledger(result, header, explicit_settings={}).header
            ),
            result / "checks.json": lambda: read_measured(ledger.checks_path, terms=ledger.terms),
            result / "result.json": lambda: without_hash(load_result(result)),
            result / "examples.parquet": lambda: load_per_class(result, num_classes=10).classes,
            root / "transfer/transfer.json": self.transfer,
        }
        for path in (root / "transfer/parts").glob("*.json"):
            found[path] = self.transfer_from_parts
        for name in ("best", "last"):
            for file in ("card.json", "model.safetensors"):
                found[run / name / file] = lambda name=name: network(run / name)  # type: ignore[misc]
        for path in sorted(result.glob("parts/*/*.parquet")):
            found[path] = lambda a=path.parent.name, c=int(path.stem): ledger.read_part(a, c)  # type: ignore[misc]
        for path in sorted(result.glob("evidence/*/*.safetensors")):
            found[path] = lambda a=path.parent.name, c=int(path.stem): ledger.read_evidence(a, c)  # type: ignore[misc]
        submission = root / "submission"
        for path in sorted(p for p in (submission / "entry").rglob("*") if p.is_file()):
            found[path] = self.entry
        found[submission / "model.safetensors"] = self.entry
        return found

    def run_folder(self) -> RunFolder:
        return RunFolder(
            self.root / "run", self.recipe, self.train, CPU, 1, facts={}, subfolders=()
        )

    def entry(self) -> object:
        """What the leaderboard shows of the entry, and what `rbl verify` says of its files."""
        submission = self.root / "submission"
        findings, _ = check_files(submission / "entry", submission, whole_manifest(submission))
        for finding in findings:  # an old note is no fault: `rbl verify` writes it anew
            if finding.level == "error" and "verification.json" not in finding.what:
                raise InputError(finding.what)
        row = load_result(submission / "entry")
        if row.status != "verified":
            raise InputError(f"the row is {row.status}")
        return without_hash(row)


def without_hash(result: object) -> object:
    return dataclasses.replace(result, file_hash="")  # type: ignore[type-var]


def network(folder: Path) -> object:
    return read_card(folder / "card.json"), checkpoint_hash(folder)


def same(a: object, b: object) -> bool:
    """Equality that also looks into tensors and tables."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "equals"):
        return bool(a.equals(b))
    return type(a) is type(b) and bool(a == b)


def damaged(content: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """The content after one damage of a random kind."""
    kind = draw.choice(("bit", "bit", "byte", "cut", "zero", "swap", "insert"))
    at = draw.randrange(max(len(content), 1))
    if kind == "swap" and others:
        return draw.choice(others)
    if kind == "cut":
        return content[:at]
    if kind == "insert":
        return content[:at] + draw.randbytes(draw.randint(1, 8)) + content[at:]
    if kind == "zero":
        length = min(draw.choice((1, 16, 512)), len(content) - at)
        return content[:at] + bytes(length) + content[at + length :]
    changed = bytearray(content)
    changed[at] = draw.randrange(256) if kind == "byte" else changed[at] ^ 1 << draw.randrange(8)
    return bytes(changed)


def attempt(read: Callable[[], object], sound: object) -> tuple[str, str]:
    """What reading a damaged file does: one of `KINDS`, and the text of an error."""
    try:
        return ("same result" if same(read(), sound) else "other result"), ""
    except DamagedFileError as error:
        kind = "computed again" if "rbl evaluate command again" in str(error) else "refused"
        return ("traceback" if "\n" in str(error) else kind), str(error)
    except (InputError, ResultError) as error:
        return ("traceback" if "\n" in str(error) else "refused"), str(error)
    except Exception as error:  # the very thing that is looked for
        return "traceback", f"{type(error).__name__}: {error}"


def damage(
    root: Path, *, tries: int, seed: int, redo: int
) -> tuple[dict[str, Counter[str]], list[str]]:
    """Try damages, each on one file that is put right again.

    Args:
        root: an empty folder.
        tries: how many.
        seed: of the damages.
        redo: of how many damaged parts the evaluation really is run again, and all its files
            compared with what they were.

    Returns:
        By kind of file how often each of `KINDS` happened; and a line for each bad one.
    """
    folders, draw = Folders(root), random.Random(seed)
    readers = folders.readers()
    sound = {path: read() for path, read in readers.items()}
    contents = {path: path.read_bytes() for path in readers}
    whole = files_of(root / "result")
    names = {path: kind_of(path.relative_to(root)) for path in readers}
    counts: dict[str, Counter[str]] = {}
    bad: list[str] = []
    for number in range(tries):
        path = draw.choice(list(readers))
        name = names[path]
        alike = [contents[other] for other in readers if other != path and names[other] == name]
        for mine, others in (("run", "other"), ("result", "other_result")):
            # A whole result.json says itself which network and protocol it is of.
            if path.is_relative_to(root / mine) and path.name != "result.json":
                alike.append((root / others / path.relative_to(root / mine)).read_bytes())
        changed = damaged(contents[path], alike, draw)
        path.write_bytes(changed)
        kind, text = attempt(readers[path], sound[path])
        if kind == "computed again" and redo > 0:
            redo -= 1
            folders.evaluate("result")
            kind = kind if files_of(root / "result") == whole else "other result"
            for aside in (root / "result").rglob("*.damaged*"):
                aside.unlink()
        path.write_bytes(contents[path])
        counts.setdefault(name, Counter())[kind] += 1
        if kind in ("other result", "traceback"):
            bad.append(f"try {number}: {path.relative_to(root)}: {kind} {text[:200]}")
    return counts, bad


def files_of(folder: Path) -> dict[str, bytes]:
    """What must be the same again: everything but seconds and files put aside."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "timing" not in path.name and ".damaged" not in path.name
    }


def kind_of(path: Path) -> str:
    """Files of one kind are counted together."""
    parts = ["*" if part[:1].isdigit() else part for part in path.with_suffix("").parts]
    if parts[1] in ("parts", "evidence"):
        parts[2] = "*"
    return "/".join(parts) + path.suffix


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--redo", type=int, default=50, help="damaged parts really computed again")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        counts, bad = damage(
            Path(folder), tries=arguments.tries, seed=arguments.seed, redo=arguments.redo
        )
    width = max(map(len, counts))
    print(f"{'file':<{width}}  " + "  ".join(f"{kind:>14}" for kind in KINDS))
    for name, counter in sorted(counts.items()):
        print(f"{name:<{width}}  " + "  ".join(f"{counter[kind]:>14}" for kind in KINDS))
    total: Counter[str] = sum(counts.values(), Counter())
    print(f"{'all':<{width}}  " + "  ".join(f"{total[kind]:>14}" for kind in KINDS))
    print(f"{arguments.tries} tries in {time.monotonic() - begin:.0f} s, seed {arguments.seed}")
    print("\n".join(bad[:50]))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
