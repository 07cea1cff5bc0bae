"""A result as a record of Every Eval Ever, the shared format for evaluation results.

Source: `every_eval_ever/schemas/eval.schema.json`, version 0.3.0 of 2026 (PyPI every-eval-ever
0.3.0; arXiv:2606.14516).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robustbench_lite.leaderboard.results.records import Accuracy, Result

SCHEMA_VERSION = "0.3.0"
LIBRARY = "robustbench_lite"
Relationship = Literal["first_party", "third_party", "collaborative", "other"]


@dataclass(frozen=True)
class Evaluator:
    """Who evaluated, as the record states it.

    Args:
        organization: its name.
        relationship: of the evaluator to the network's authors; `first_party` evaluated its own.
        timestamp: when the record is made, in seconds since 1970.
    """

    organization: str
    relationship: Relationship
    timestamp: int


def every_eval_ever_record(result: Result, evaluator: Evaluator) -> dict[str, object]:
    """One evaluation as one record: clean accuracy, each attack alone, and all attacks together.

    Args:
        result: a stored result.
        evaluator: what the result itself does not say.

    Returns:
        What `json.dumps` makes a valid file. Scores are fractions in [0, 1] with 95% Wilson
        intervals; raised flags are named in the details of the robust accuracies.
    """
    identity = _identity(result, evaluator)
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": f"{result.protocol.id}/{identity}/{evaluator.timestamp}",
        "retrieved_timestamp": str(evaluator.timestamp),
        "source_metadata": {
            "source_name": LIBRARY,
            # Outcomes of single examples are raw output; without them it is a reported number.
            "source_type": "evaluation_run" if result.outcomes else "documentation",
            "source_organization_name": evaluator.organization,
            "evaluator_relationship": evaluator.relationship,
            "additional_details": {"result_sha256": result.file_hash.removeprefix("sha256:")},
        },
        "eval_library": _library(result),
        "model_info": _network(result, identity),
        "evaluation_results": _evaluations(result),
    }


def _library(result: Result) -> dict[str, object]:
    versions = result.environment.get("versions")
    version = versions.get(LIBRARY, "unknown") if isinstance(versions, dict) else "unknown"
    details = {"git_commit": result.git_commit, "engine": result.protocol.engine_text}
    return {"name": LIBRARY, "version": str(version), "additional_details": _texts(details)}


def _network(result: Result, identity: str) -> dict[str, object]:
    details = {
        "deployment_type": "self_deployed",
        "model_availability": "unknown",
        "architecture": result.architecture,
        "defense": result.defense,
        "parameters": result.parameters,
        "weights_hash": result.model.hash,
    }
    return {"name": result.name, "id": identity, "additional_details": _texts(details)}


def record_path(result: Result, evaluator: Evaluator) -> Path:
    """Where the shared data store wants the record: `data/COLLECTION/DEVELOPER/MODEL/UUID.json`.

    The UUID (version 4, as required) is made from the result's hash: one result, one file.
    """
    digest = bytes.fromhex(result.file_hash.removeprefix("sha256:"))
    name = f"{uuid.UUID(bytes=digest[:16], version=4)}.json"
    return Path("data", LIBRARY, _identity(result, evaluator), name)


def _identity(result: Result, evaluator: Evaluator) -> str:
    return f"{_id(evaluator.organization)}/{_id(result.name)}"


def _evaluations(result: Result) -> list[dict[str, object]]:
    ball = {"norm": result.protocol.norm, "eps": result.protocol.eps}
    attacks = {attack.name: attack for attack in result.protocol.attacks}
    rows = [_evaluation(result, "clean", "Clean accuracy", result.clean_accuracy, {})]
    for name, measured in result.attacks.items():
        parameters = {**ball, **dict(attacks[name].parameters)}
        title = f"Robust accuracy under {attacks[name].title}"
        rows.append(_evaluation(result, name, title, measured.accuracy, parameters))
    title = f"Robust accuracy under all attacks of {result.protocol.name}"
    return [*rows, _evaluation(result, "robust", title, result.robust_accuracy, ball)]


def _evaluation(
    result: Result, key: str, title: str, accuracy: Accuracy, parameters: dict[str, str]
) -> dict[str, object]:
    data = {
        "split": result.dataset.split,
        "pixels_hash": result.dataset.hash,
        "examples": result.examples.text,
    }
    return {
        "evaluation_result_id": f"{result.protocol.id}/{key}",
        "evaluation_name": f"{result.dataset.name} {result.protocol.id} {key}",
        "source_data": {
            "dataset_name": result.dataset.name,
            "source_type": "other",
            "additional_details": _texts(data),
        },
        "metric_config": {
            "evaluation_description": title,
            "metric_id": "accuracy" if key == "clean" else f"{LIBRARY}.robust_accuracy",
            "metric_name": title,
            "metric_kind": "accuracy",
            "metric_unit": "proportion",
            "metric_parameters": parameters,
            "lower_is_better": False,
            "score_type": "continuous",
            "min_score": 0.0,
            "max_score": 1.0,
        },
        "score_details": _score(result, accuracy, "" if key == "clean" else _reasons(result)),
    }


def _score(result: Result, accuracy: Accuracy, flags: str) -> dict[str, object]:
    lower, upper = accuracy.interval
    details = {
        "correct": accuracy.correct,
        "seed": result.seed,
        "status": result.status,
        "flags": flags,
    }
    return {
        "score": accuracy.value,
        "details": _texts(details),
        "uncertainty": {
            "confidence_interval": {
                "lower": lower,
                "upper": upper,
                "confidence_level": 0.95,
                "method": "Wilson",
            },
            "num_samples": accuracy.n,
        },
    }


def _reasons(result: Result) -> str:
    return ", ".join(result.reasons)


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    """Details as the schema wants them: text, and nothing that is empty."""
    return {name: str(value) for name, value in values.items() if str(value)}


def _id(name: str) -> str:
    """A part of an identity in Hugging Face's form."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "unknown"
