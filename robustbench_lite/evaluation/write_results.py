"""`result.json` and `examples.parquet`: pure functions of a ledger's header and parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_lite.core.errors import InputError
from robustbench_lite.core.flag_rules import HISTORY
from robustbench_lite.core.integrity import file_sha256
from robustbench_lite.core.storage import read_sealed_json, write_atomically, write_sealed_json
from robustbench_lite.core.stored_table import write_table
from robustbench_lite.evaluation.flags.history_checks import with_verdicts
from robustbench_lite.evaluation.flags.outcome_checks import outcome_checks
from robustbench_lite.evaluation.flags.thresholds import raised, read_measured
from robustbench_lite.evaluation.header import Header
from robustbench_lite.evaluation.ledger import COLUMNS, Ledger
from robustbench_lite.leaderboard.results.records import CLEAN, EXAMPLES_FILE

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped]

    from robustbench_lite.attacks.protocol import AttackSpec
    from robustbench_lite.leaderboard.statistics.accuracy import AccuracyRecord


def write_results(ledger: Ledger, attacks: list[str], chunks: int) -> dict[str, object]:
    """Gather the finished parts of a ledger into its two result files.

    Args:
        ledger: all of whose parts are there.
        attacks: names of the protocol's attacks, in order.
        chunks: number of chunks.

    Returns:
        The content of `result.json`. Robust accuracy is the union: clean-correct and broken by no
        attack, over all examples evaluated.

    Raises:
        InputError: when parts are missing or do not belong together.
    """
    import pandas

    if missing := ledger.missing(attacks, chunks):
        chunk, attack = missing[0]
        raise InputError(
            f"{ledger.folder} is not finished: {len(missing)} parts are missing, first {attack} "
            f"of chunk {chunk}"
        )
    parts = {
        name: pandas.concat(
            [ledger.read_part(name, chunk) for chunk in range(chunks)], ignore_index=True
        )
        for name in (CLEAN, *attacks)
    }
    result = _summary(ledger, attacks, parts, _changed(ledger, attacks, chunks))
    rows, file = pandas.concat(parts.values(), ignore_index=True), ledger.folder / EXAMPLES_FILE
    write_atomically(file, lambda path: write_table(path, rows, COLUMNS, {}))
    result["examples_sha256"] = file_sha256(file)
    write_sealed_json(ledger.folder / "result.json", result)
    return result


def read_results(ledger: Ledger) -> dict[str, object]:
    """What `write_results` wrote: the content of `result.json`.

    Raises:
        DamagedFileError: when the file is not there or damaged.
    """
    result: dict[str, object] = read_sealed_json(ledger.folder / "result.json")[0]
    return result


def _spec(header: Header, name: str) -> AttackSpec:
    """The attack of the protocol with that name."""
    from robustbench_lite.attacks.protocol import AttackSpec

    attacks = header.identity["protocol"]["attacks"]  # type: ignore[index]
    (found,) = (one for one in attacks if one["name"] == name)
    return AttackSpec.from_dict(found)


def _stages(
    header: Header, name: str, rows: pandas.DataFrame, n: int
) -> dict[str, dict[str, AccuracyRecord]]:
    """Of a composite attack, the accuracy left after each of its attacks: `{"stages": {...}}`."""
    from robustbench_lite.leaderboard.statistics.accuracy import accuracy

    norm = header.identity["protocol"]["norm"]  # type: ignore[index]
    standing, after = len(rows), {}
    for stage in _spec(header, name).contract.stages(norm):
        standing -= int((rows["stage"] == stage).sum())
        after[stage] = accuracy(standing, n)
    return {"stages": after} if after else {}


def _targeted(header: Header, name: str, rows: pandas.DataFrame) -> dict[str, object]:
    """Of a targeted attack, how often it succeeded: `{"targeted": {...}}`.

    `success` is the attack success rate over the examples that it attacked, all of which are right
    when clean; `misclassified` counts those taken for any wrong class.
    """
    from robustbench_lite.leaderboard.statistics.accuracy import accuracy

    if (target := _spec(header, name).target) is None:
        return {}
    hit, wrong = int(rows["broken"].sum()), int((rows["prediction"] != rows["label"]).sum())
    success = accuracy(hit, len(rows)) if len(rows) else None
    return {"targeted": {"target": target, "success": success, "misclassified": wrong}}


def _outcomes(
    ledger: Ledger, attacks: list[str], parts: dict[str, pandas.DataFrame]
) -> dict[str, dict[int, bool]]:
    """Per column (`clean`, then each attack) and example id: right, and not broken by it.

    Raises:
        InputError: when the parts hold other examples than the header and the clean parts say.
    """
    examples = ledger.header.identity["examples"]
    expected = list(examples.get("ids", range(examples["count"])))  # type: ignore[attr-defined, index]
    ids = parts[CLEAN]["example_id"].tolist()
    if ids != expected:
        raise InputError(
            f"{ledger.folder}: the clean parts do not hold the {len(expected)} examples from "
            f"{expected[0]} to {expected[-1]} that the header names; remove parts/ and run the "
            "same command again"
        )
    outcomes = {CLEAN: dict(zip(ids, ~parts[CLEAN]["broken"], strict=True))}
    correct = [i for i in ids if outcomes[CLEAN][i]]
    for name in attacks:
        rows = parts[name]
        if rows["example_id"].tolist() != correct:
            raise InputError(
                f"{ledger.folder}: the parts of {name!r} do not hold the clean-correct examples; "
                "remove that folder under parts/ and run the same command again"
            )
        robust = dict(zip(correct, ~rows["broken"], strict=True))
        outcomes[name] = dict.fromkeys(ids, False) | robust
    return outcomes


def _changed(ledger: Ledger, attacks: list[str], chunks: int) -> set[int] | None:
    """Examples whose verdict a fresh copy of the network did not confirm in some part; None where
    a part has not asked one."""
    found: set[int] = set()
    for name in (CLEAN, *attacks):
        for chunk in range(chunks):
            changed = ledger.read_changed(name, chunk)
            if changed is None:
                return None
            found |= set(changed)
    return found


def _summary(
    ledger: Ledger,
    attacks: list[str],
    parts: dict[str, pandas.DataFrame],
    changed: set[int] | None,
) -> dict[str, object]:
    from robustbench_lite.leaderboard.results.load import SCHEMA_VERSION
    from robustbench_lite.leaderboard.statistics.accuracy import (
        accuracy,
        pack_labels,
        pack_outcomes,
    )

    header = ledger.header
    outcomes = _outcomes(ledger, attacks, parts)
    counted = {
        name: accuracy(int(sum(robust.values())), len(robust)) for name, robust in outcomes.items()
    }
    packed = {name: pack_outcomes(list(robust.values())) for name, robust in outcomes.items()}
    union = [all(robust[i] for robust in outcomes.values()) for i in outcomes[CLEAN]]
    cost = {
        name: {
            kind: float(parts[name][kind].mean()) if len(parts[name]) else 0.0
            for kind in ("forwards", "backwards")
        }
        for name in attacks
    }
    identity, about = dict(header.identity), dict(header.about)
    measured = read_measured(ledger.checks_path, terms=ledger.terms_of_checks)
    checks = {**measured.checks, **outcome_checks(identity["protocol"], parts, measured)}  # type: ignore[arg-type]
    checks[HISTORY] = with_verdicts(checks[HISTORY], changed, len(union))
    flags = raised(checks, passes=identity["protocol"]["passes"])  # type: ignore[index]
    environment = dict(header.environment)
    return {
        "schema_version": SCHEMA_VERSION,
        "name": identity["model"]["name"],  # type: ignore[index]
        **{key: about[key] for key in ("defense", "architecture", "parameters")},
        "extra_data": about["extra_data"],
        "dataset": {**identity["dataset"], "canonical": about["dataset_canonical"]},  # type: ignore[dict-item]
        "model": {**identity["model"], "selection": about["selection"]},  # type: ignore[dict-item]
        "protocol": identity["protocol"],
        "n_examples": len(union),
        "examples": {**identity["examples"], **about.get("examples", {})},  # type: ignore[dict-item]
        "seed": identity["seed"],
        "clean_accuracy": counted[CLEAN],
        "robust_accuracy": accuracy(sum(union), len(union)),
        "attacks": {
            name: {
                **counted[name],
                **cost[name],
                **_stages(header, name, parts[name], len(union)),
                **_targeted(header, name, parts[name]),
            }
            for name in attacks
        },
        "outcomes": {
            "encoding": "packbits-base64",
            "clean": packed.pop(CLEAN),
            "attacks": packed,
            "labels": pack_labels(parts[CLEAN]["label"]),  # accuracies by class are counted by them
        },
        "flags": flags,
        "checks": {name: vars(check) for name, check in checks.items()},
        "status": "flagged" if flags else "measured",
        "settings": dict(header.settings),
        "git_commit": environment.pop("git_commit"),
        "environment": environment,
    }
