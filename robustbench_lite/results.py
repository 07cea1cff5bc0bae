"""`result.json` and `examples.parquet`: pure functions of a ledger's header and parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_lite.errors import InputError
from robustbench_lite.flags import MEASURED, raised
from robustbench_lite.ledger import CLEAN, SCHEMA_VERSION, Header, Ledger
from robustbench_lite.storage import write_atomically, write_json
from robustbench_lite.verifier import BALL_TOLERANCE

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped]


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
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

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
    result = _summary(ledger, attacks, parts)
    table = pyarrow.Table.from_pandas(
        pandas.concat(parts.values(), ignore_index=True), preserve_index=False
    )
    write_atomically(
        ledger.folder / "examples.parquet",
        lambda path: pyarrow.parquet.write_table(table, path, compression="zstd"),
    )
    write_json(ledger.folder / "result.json", result)
    return result


def _outside(header: Header, attacks: list[str], parts: dict[str, pandas.DataFrame]) -> float:
    """Largest share, over attacks, of candidates misclassified but outside the ball.

    They count as robust, rightly, but an attack with many of them was not this threat model's.
    Minimal-norm attacks, which know no ball, are left out.
    """
    protocol = header.identity["protocol"]
    radius = protocol["norm"].lower()  # type: ignore[index]
    minimal = {spec["name"] for spec in protocol["attacks"] if spec["attack"] == "cw_l2"}  # type: ignore[index]
    shares = [0.0]
    for name in attacks:
        rows = parts[name]
        if name not in minimal and len(rows):
            limit = protocol["eps_value"] + BALL_TOLERANCE  # type: ignore[index]
            lost = (rows["prediction"] != rows["label"]) & (rows[radius] > limit)
            shares.append(float(lost.mean()))
    return max(shares)


def _summary(
    ledger: Ledger, attacks: list[str], parts: dict[str, pandas.DataFrame]
) -> dict[str, object]:
    from robustbench_lite.leaderboard.statistics import accuracy, pack_outcomes

    header = ledger.header
    clean_ids = parts[CLEAN]["example_id"]
    count = header.identity["examples"]["count"]  # type: ignore[index]
    if clean_ids.tolist() != list(range(count)):
        raise InputError(
            f"{ledger.folder}: the clean parts do not hold examples 0 to {count - 1}; remove "
            "parts/ and run the same command again"
        )
    correct = dict(zip(clean_ids, ~parts[CLEAN]["broken"], strict=True))
    union = dict(correct)
    attack_results: dict[str, object] = {}
    packed: dict[str, str] = {}
    for name in attacks:
        rows = parts[name]
        if list(rows["example_id"]) != [i for i in clean_ids if correct[i]]:
            raise InputError(
                f"{ledger.folder}: the parts of {name!r} do not hold the clean-correct examples; "
                "remove that folder under parts/ and run the same command again"
            )
        robust = dict.fromkeys(clean_ids, False) | dict(
            zip(rows["example_id"], ~rows["broken"], strict=True)
        )
        union = {i: union[i] and robust[i] for i in union}
        attack_results[name] = {
            **accuracy(int(sum(robust.values())), len(robust)),
            "forwards": float(rows["forwards"].mean()) if len(rows) else 0.0,
            "backwards": float(rows["backwards"].mean()) if len(rows) else 0.0,
        }
        packed[name] = pack_outcomes(list(robust.values()))
    checks = ledger.read_checks(MEASURED) | {"outside_ball": _outside(header, attacks, parts)}
    flags = raised(checks)
    identity, about = dict(header.identity), dict(header.about)
    environment = dict(header.environment)
    return {
        "schema_version": SCHEMA_VERSION,
        "name": identity["model"]["name"],  # type: ignore[index]
        **{key: about[key] for key in ("defense", "architecture", "parameters")},
        "extra_data": about["extra_data"],
        "dataset": {**identity["dataset"], "canonical": about["dataset_canonical"]},  # type: ignore[dict-item]
        "model": {**identity["model"], "selection": about["selection"]},  # type: ignore[dict-item]
        "protocol": identity["protocol"],
        "n_examples": len(correct),
        "examples": identity["examples"],
        "seed": identity["seed"],
        "clean_accuracy": accuracy(int(sum(correct.values())), len(correct)),
        "robust_accuracy": accuracy(int(sum(union.values())), len(union)),
        "attacks": attack_results,
        "outcomes": {
            "encoding": "packbits-base64",
            "clean": pack_outcomes(list(correct.values())),
            "attacks": packed,
        },
        "flags": flags,
        "checks": checks,
        "status": "unverified" if flags else "verified",
        "settings": dict(header.settings),
        "git_commit": environment.pop("git_commit"),
        "environment": environment,
    }
