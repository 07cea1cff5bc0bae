"""The rows of one part of an evaluation, as the ledger stores them."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas  # type: ignore[import-untyped]
from torch import Tensor

from robustbench_lite.verifier import Verdict


def part_rows(
    name: str,
    ids: Tensor,
    labels: Tensor,
    clean_predictions: Tensor,
    verdict: Verdict,
    passes: tuple[int, int],
    x_adv: Tensor,
    stage: np.ndarray,
) -> pandas.DataFrame:
    """The table of one part, in the columns of `robustbench_lite.ledger.COLUMNS`.

    Args:
        name: the attack; `"clean"` for the clean pass.
        ids: example ids `(B,)` int64, on the CPU, as `labels` and `clean_predictions`.
        labels: `(B,)` int64.
        clean_predictions: `(B,)` int64.
        verdict: of the part's images.
        passes: forwards and backwards of the whole part. Rows hold the mean per example: attacks
            work in batches.
        x_adv: images `(B, C, H, W)`, hashed.
        stage: which attack of an ensemble broke the example, `(B,)` str; empty for none.

    Returns:
        One row an example, in the order of `ids`.
    """
    n = max(len(ids), 1)
    return pandas.DataFrame(
        {
            "example_id": ids.numpy(),
            "label": labels.numpy(),
            "clean_prediction": clean_predictions.numpy(),
            "attack": [name] * len(ids),
            "broken": verdict.broken.cpu().numpy(),
            "stage": stage,
            "prediction": verdict.prediction.cpu().numpy(),
            "linf": verdict.linf.cpu().numpy(),
            "l2": verdict.l2.cpu().numpy(),
            "l1": verdict.l1.cpu().numpy(),
            "forwards": np.full(len(ids), passes[0] / n),
            "backwards": np.full(len(ids), passes[1] / n),
            "loss": verdict.loss.cpu().numpy(),
            "sha256": [
                hashlib.sha256(image.tobytes()).hexdigest() for image in x_adv.cpu().numpy()
            ],
        }
    )
