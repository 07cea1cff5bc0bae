"""One transfer measurement in progress: crafting, judging and counting, source by source."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.protocol import AttackSpec, Protocol
from robustbench_lite.attacks.run_attack import run_attack
from robustbench_lite.checkpoints.model_source import LoadedModel, check_model_contract
from robustbench_lite.checkpoints.user_network import passes_of
from robustbench_lite.core.errors import DamagedFileError, InputError
from robustbench_lite.core.numerics import out_of_memory_as_input_error
from robustbench_lite.core.random_numbers import fold_seed
from robustbench_lite.core.storage import read_sealed_json, write_sealed_json
from robustbench_lite.datasets import Split
from robustbench_lite.leaderboard.statistics.accuracy import accuracy
from robustbench_lite.transfer.eight_bit_images import round_to_8bit
from robustbench_lite.transfer.success_rate import count_transfer
from robustbench_lite.verifier import Verdict, verify

logger = logging.getLogger(__name__)

Pixels = Literal["8bit", "float"]
_UNSURE = -1  # the prediction where most passes are wrong, but no class has more than the label


@dataclass(frozen=True)
class _Seen:
    """Predictions for the images crafted on one source, in V versions, the judged one first.

    Args:
        crafted: the source's entry of the result.
        source_adv: the source's own, (V, N).
        target_adv: those of each target, by its hash, (V, N).
    """

    crafted: Mapping[str, object]
    source_adv: Tensor
    target_adv: Mapping[str, Tensor]


class Measurement:
    """The images and how they are attacked and judged.

    Args:
        data: the images, on the device.
        ids: their row numbers in the split, (N,) int64, on the device.
        protocol: norm, eps and passes.
        spec: the attack.
        seed: of every random draw.
        pixels: `"8bit"` or `"float"`.
        batch_size: rows per forward pass.
        parts: folder for what is finished, a file per source.
        terms: what must be the same for a part to be used again.
    """

    def __init__(
        self,
        data: Split,
        ids: Tensor,
        protocol: Protocol,
        spec: AttackSpec,
        *,
        seed: int,
        pixels: Pixels,
        batch_size: int,
        parts: Path,
        terms: Mapping[str, object],
    ) -> None:
        self.data, self.ids, self.protocol, self.spec = data, ids, protocol, spec
        self.seed, self.pixels, self.batch_size = seed, pixels, batch_size
        self.parts = parts
        self.terms = hashlib.sha256(json.dumps(terms, sort_keys=True).encode()).hexdigest()
        self.x, self.y = data.pixels(slice(None)), data.labels

    def measure(
        self, sources: Sequence[LoadedModel], targets: Sequence[LoadedModel]
    ) -> dict[str, object]:
        """`crafted`, `pairs` and `unions` of the result."""
        clean: dict[str, Tensor] = {}
        for network in (*sources, *targets):
            if network.hash not in clean:
                network.model.to(self.x.device).eval()
                self._check(network)
                verdict = self._judge(network.model, self.x)
                clean[network.hash] = _answers(verdict, self.y, otherwise=self.y)
        seen: dict[str, _Seen] = {}
        for source in sources:
            seen[source.hash] = self._stored(source) or self._do(source, targets, clean)
        pairs = [
            {"source": source.hash, **self._record([source.hash], target.hash, seen, clean)}
            for source in sources
            for target in targets
        ]
        unions = []
        for target in targets:
            # What was crafted on the target itself is no transfer.
            others = [hash_ for hash_ in seen if hash_ != target.hash]
            if len(others) > 1:
                record = self._record(others, target.hash, seen, clean)
                unions.append({"sources": others, **record})
        crafted = [seen[source.hash].crafted for source in sources]
        return {"crafted": crafted, "pairs": pairs, "unions": unions}

    def _record(
        self,
        sources: Sequence[str],
        target: str,
        seen: Mapping[str, _Seen],
        clean: Mapping[str, Tensor],
    ) -> dict[str, object]:
        """What a target makes of the images of some sources, by their hashes."""
        versions = [
            count_transfer(
                self.y,
                source_clean=torch.stack([clean[source] for source in sources]),
                source_adv=torch.stack([seen[source].source_adv[v] for source in sources]),
                target_clean=clean[target],
                target_adv=torch.stack([seen[source].target_adv[target][v] for source in sources]),
            )
            for v in range(len(seen[sources[0]].source_adv))
        ]
        return {
            "target": target,
            "clean_accuracy": accuracy(int((clean[target] == self.y).sum()), len(self.y)),
            **versions[0].as_dict(),
            "before_rounding": versions[1].as_dict() if len(versions) > 1 else None,
        }

    def _do(
        self, source: LoadedModel, targets: Sequence[LoadedModel], clean: Mapping[str, Tensor]
    ) -> _Seen:
        """Craft on a source, judge on it and on every target, and keep what they said."""
        logger.info("crafting %s on %s", self.spec.name, source.name)
        # Randomised networks draw the same whether sources before this one were there already.
        torch.manual_seed(fold_seed(self.seed, source.hash) % 2**63)
        versions = self._craft(source)
        verdicts = [self._judge(source.model, x_adv) for x_adv in versions]
        mine = clean[source.hash]
        crafted = {
            "source": source.hash,
            "clean_accuracy": accuracy(int((mine == self.y).sum()), len(self.y)),
            "fooled": int((verdicts[0].broken & (mine == self.y)).sum()),
            "largest_linf": float(verdicts[0].linf.max()),
            "largest_l2": float(verdicts[0].l2.max()),
            "largest_l1": float(verdicts[0].l1.max()),
        }
        seen = _Seen(
            crafted,
            torch.stack([_answers(verdict, self.y, otherwise=mine) for verdict in verdicts]),
            {target.hash: self._said(target, versions, clean[target.hash]) for target in targets},
        )
        write_sealed_json(
            self._path(source),
            {
                "terms": self.terms,
                "crafted": seen.crafted,
                "source_adv": seen.source_adv.tolist(),
                "target_adv": {key: said.tolist() for key, said in seen.target_adv.items()},
            },
        )
        return seen

    def _said(self, target: LoadedModel, versions: Sequence[Tensor], clean: Tensor) -> Tensor:
        verdicts = [self._judge(target.model, x_adv) for x_adv in versions]
        return torch.stack([_answers(verdict, self.y, otherwise=clean) for verdict in verdicts])

    def _path(self, source: LoadedModel) -> Path:
        return self.parts / f"{source.hash.removeprefix('sha256:')[:16]}.json"

    def _stored(self, source: LoadedModel) -> _Seen | None:
        """What an interrupted call of the same terms wrote about a source."""
        try:
            part, sealed = read_sealed_json(self._path(source))
            if not sealed or (part["terms"], part["crafted"]["source"]) != (
                self.terms,
                source.hash,
            ):
                return None
            predictions = {
                key: torch.tensor(said, device=self.y.device)
                for key, said in part["target_adv"].items()
            }
            source_adv = torch.tensor(part["source_adv"], device=self.y.device)
            return _Seen(part["crafted"], source_adv, predictions)
        except DamagedFileError as error:
            if self._path(source).exists():
                logger.warning("%s; computed again", error)
        except (ValueError, KeyError, TypeError):
            pass  # sound, but of another version
        return None

    def _check(self, network: LoadedModel) -> None:
        try:
            with passes_of(network.model):
                check_model_contract(
                    network.model, self.x[:8], self.data.num_classes, dataset=self.data.name
                )
        except InputError as error:
            raise InputError(f"{network.name}: {error}") from error

    def _craft(self, source: LoadedModel) -> list[Tensor]:
        """The candidates as judged and, where those are rounded, before that."""
        crafting = passes_of(source.model, f"crafting {self.spec.name} on {source.name}")
        with (
            out_of_memory_as_input_error(
                source.name, self.batch_size, "choose a smaller --batch-size"
            ),
            crafting,
        ):
            x_adv = run_attack(
                self.spec,
                source.model,
                self.x,
                self.y,
                threat=self.protocol.threat,
                ids=self.ids,
                seed=self.seed,
                batch_size=self.batch_size,
                passes=self.protocol.passes,
            )
        if self.pixels == "float":
            return [x_adv]
        return [round_to_8bit(x_adv, self.x, self.protocol.threat), x_adv]

    def _judge(self, model: nn.Module, x_adv: Tensor) -> Verdict:
        with passes_of(model, "clean images" if x_adv is self.x else "crafted images"):
            return verify(
                model,
                self.x,
                x_adv,
                self.y,
                threat=self.protocol.threat,
                batch_size=self.batch_size,
                passes=self.protocol.passes,
            )


def _answers(verdict: Verdict, y: Tensor, *, otherwise: Tensor) -> Tensor:
    """Predictions (N,) that are wrong exactly where the verifier says broken, or `otherwise` is.

    Where a candidate is not allowed `otherwise` stands, the prediction for the clean image. With
    several passes more than half may be wrong though the label has the most votes.
    """
    wrong = torch.where(verdict.prediction == y, _UNSURE, verdict.prediction)
    right = torch.where(verdict.prediction == y, y, otherwise)
    return torch.where(verdict.broken, wrong, right)
