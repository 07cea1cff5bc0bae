"""An entry computed again: clean images, flags, evidence, and a sample that is attacked again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_lite.attacks.acceleration.search_network import search_network
from robustbench_lite.attacks.protocol import AttackSpec, Protocol
from robustbench_lite.attacks.run_attack import run_attack, targets_of_spec
from robustbench_lite.core.drawn_ids import draw_ids
from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets import Split
from robustbench_lite.evaluation.evidence import decompress
from robustbench_lite.evaluation.flags.fresh_networks import FreshNetworks, judged_twice
from robustbench_lite.evaluation.flags.network_checks import measure_flags
from robustbench_lite.evaluation.flags.thresholds import AFTER_ATTACKS, Check, raised
from robustbench_lite.leaderboard.results.records import Result
from robustbench_lite.leaderboard.results.submitted import SUBMITTED
from robustbench_lite.leaderboard.statistics.accuracy import outcome_array
from robustbench_lite.submission.findings import Finding
from robustbench_lite.submission.review import RunOptions
from robustbench_lite.verifier import Verdict, largest_norm, verify

_TIE = 1e-4  # of the largest logit: below it, other hardware may round to the other side
_SHOWN = 5
_LARGEST_BATCH = 10_000


@dataclass(frozen=True)
class Sample:
    """The claimed-robust examples that are attacked again.

    Args:
        k: how many.
        seed: the verifier's own, which draws them; an author cannot know it beforehand.
    """

    k: int
    seed: int

    def draw(self, robust: np.ndarray) -> Tensor:
        """Ids (at most k, ascending) of those that `robust`, bool (N,), says hold."""
        candidates = np.flatnonzero(robust)
        # Ordered by a hash of seed and id: the draw is the same on every machine and version.
        drawn = draw_ids(candidates.tolist(), self.k, seed=self.seed, purpose="rbl verify")
        return torch.tensor(drawn, dtype=torch.int64)


def detection_probability(forged: float, k: int) -> float:
    """Chance that k drawn examples hold at least one forged: 1 - (1 - f)^k.

    Args:
        forged: f, the share of claimed-robust examples that the protocol does break.
        k: examples drawn. (Without replacement, which only raises the chance.)
    """
    return 1.0 - (1.0 - forged) ** k


class Recheck:
    """Network, images and claimed outcomes of one entry."""

    def __init__(
        self, model: nn.Module, protocol: Protocol, result: Result, data: Split, place: RunOptions
    ) -> None:
        assert result.outcomes is not None
        self.model, self.protocol, self.result = model, protocol, result
        self.fresh = FreshNetworks(model)
        n, device = result.n_examples, torch.device(place.device)
        part = data.subset(torch.arange(n)).to(device)
        self.x, self.y, self.classes = part.pixels(slice(None)), part.labels, data.num_classes
        self.batch_size = place.batch_size or _batch_size(result)
        outcomes = result.outcomes
        self.right = outcome_array(outcomes.clean, n)
        self.stands = {name: outcome_array(bits, n) for name, bits in outcomes.attacks.items()}
        self.robust = outcome_array(outcomes.robust, n)

    def clean(self) -> Finding:
        """Clean predictions, all of them."""
        differs = self._broken(self.x, slice(None)) != torch.from_numpy(~self.right)
        return self._compared(differs.nonzero().flatten(), self.x, "clean verdicts", len(self.x))

    def flags(self) -> list[Finding]:
        """Whether the network raises the flags that the result reports."""
        passes = self.protocol.passes
        measured = measure_flags(
            self.model,
            self.x,
            self.y,
            threat=self.protocol.threat,
            seed=self.result.seed,
            batch_size=self.batch_size,
            passes=passes,
            fresh=self.fresh,
        )
        fix = "run `rbl submit run` again, and see docs/flags.md"
        reported = {flag.name for flag in self.result.flags} - {SUBMITTED.name}
        try:
            stored = {name: Check(**check) for name, check in self.result.checks.items()}  # type: ignore[arg-type]
            stated = {str(flag["name"]) for flag in raised(stored, passes=passes)}
        except (KeyError, TypeError):
            return [Finding("error", "the result does not store what its flags measured", fix)]
        # What PGD broke on copies of the network and no attack of the result: at least that share.
        untargeted = [one for one in self.protocol.attacks if one.target is None]
        stands = np.logical_and.reduce([self.right, *(self.stands[one.name] for one in untargeted)])
        missed = [example for example in measured.crafted_broken if stands[example]]
        # Images that aim at no class say nothing of a row whose attacks all aim at one.
        points = measured.crafted_points if untargeted else 0
        share = Check(len(missed) / points if points else 0.0, points)
        checks = {**dict.fromkeys(AFTER_ATTACKS, Check(0.0, 0)), **measured.checks}
        checks["transfer_beats_white_box"] = share
        now = {str(flag["name"]) for flag in raised(checks, passes=passes)}
        if hidden := (now | stated) - reported:
            return [Finding("error", f"flags not in the result: {sorted(hidden)}", fix)]
        if reported:
            what = f"flags as stated: {sorted(reported)}; the row stays flagged"
            return [Finding("warning", what, "see docs/flags.md")]
        return [Finding("ok", f"no flag of {len(checks)}, as stated")]

    def evidence(self, attack: str, folder: Path) -> Finding:
        """Whether the evidence breaks exactly the examples that the result calls broken."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            rows, images = decompress(load_file(folder / f"{attack}.safetensors"), self.x)
        except (SafetensorError, OSError, InputError) as error:
            return Finding("error", f"evidence of {attack}: {error}", "run `rbl submit run` again")
        claimed = np.flatnonzero(self.right & ~self.stands[attack])
        if extra := sorted(set(rows.tolist()) - set(claimed.tolist())):
            what = f"evidence of {attack} breaks {_some(extra)}, which the result calls robust"
            return Finding("error", what, "results are never edited: `rbl submit run`")
        if missing := sorted(set(claimed.tolist()) - set(rows.tolist())):
            what = f"no evidence that {attack} breaks {_some(missing)}, as the result says"
            return Finding("error", what, "run `rbl submit run` again")
        (spec,) = (spec for spec in self.protocol.attacks if spec.name == attack)
        failing = rows[~self._broken(images, rows, spec)]
        whole = self.x.clone()
        whole[rows] = images
        return self._compared(failing, whole, f"adversarial images of {attack}", len(rows))

    def attack_again(self, sample: Sample) -> Finding:
        """The protocol on a sample of what the result calls robust, with the result's own seed."""
        ids = sample.draw(self.robust)
        x, y = self.x[ids], self.y[ids]
        network = search_network(
            self.model, precision="float32", device=self.x.device, like=self.x[0]
        ).module
        broken = torch.zeros(len(ids), dtype=torch.bool)
        for spec in self.protocol.attacks if len(ids) else ():
            x_adv = run_attack(
                spec,
                self.model,
                x,
                y,
                threat=self.protocol.threat,
                ids=ids.to(x.device),
                seed=self.result.seed,
                batch_size=self.batch_size,
                passes=self.protocol.passes,
                network=network,
            )
            broken |= self._broken(x_adv, ids, spec)
        chances = ", ".join(
            f"{share} % with probability {detection_probability(share / 100, len(ids)):.3f}"
            for share in (1, 5, 10)
        )
        odds = f"(seed {sample.seed}); of forged outcomes this finds {chances}"
        if broken.any():
            what = f"{_some(ids[broken].tolist())} of {len(ids)} attacked again broke {odds}"
            fix = "the result calls them robust: run `rbl submit run` on this version, unedited"
            return Finding("error", what, fix)
        return Finding("ok", f"{len(ids)} claimed-robust examples attacked again: all hold {odds}")

    def _broken(
        self, x_adv: Tensor, rows: slice | Tensor, spec: AttackSpec | None = None
    ) -> Tensor:
        """The verifier's verdict on images of some rows, on the CPU: broken for the network that
        was attacked, or for one that has seen nothing else. `spec` is the attack, if any."""
        targets = None if spec is None else self._targets(spec, rows)

        def judge(network: nn.Module) -> Verdict:
            """The verifier, on these rows."""
            return verify(
                network,
                self.x[rows],
                x_adv,
                self.y[rows],
                threat=self.protocol.threat,
                batch_size=self.batch_size,
                passes=self.protocol.passes,
                target_labels=targets,
            )

        return judged_twice(self.model, self.fresh, judge)[0].broken.cpu()

    def _targets(self, spec: AttackSpec, rows: slice | Tensor) -> Tensor | None:
        """The classes that an attack aims at; the id of an image is its row."""
        ids = torch.arange(len(self.x), device=self.x.device)[rows]
        return targets_of_spec(
            spec,
            self.model,
            self.x[rows],
            self.y[rows],
            ids=ids,
            seed=self.result.seed,
            batch_size=self.batch_size,
        )

    def _compared(self, differs: Tensor, images: Tensor, what: str, n: int) -> Finding:
        """A finding on examples whose outcome differs here; a tie is no forgery."""
        if not len(differs):
            return Finding("ok", f"{n} {what} hold")
        inside = images[differs].sub(self.x[differs])  # an image outside the ball is no tie
        tied = self._tied(images[differs]) & self._allowed(inside)
        if bool(tied.all()) and len(differs) <= max(2, n // 1000):
            tie = f"{len(differs)} of {n} {what} lie on a tie, decided otherwise here"
            return Finding("warning", tie, "rounding of other hardware; nothing to do")
        fix = "run `rbl submit run` again, with these weights"
        return Finding("error", f"{_some(differs.tolist())} of {n} {what} do not hold", fix)

    def _allowed(self, delta: Tensor) -> Tensor:
        order = {"Linf": float("inf"), "L2": 2, "L1": 1}[self.protocol.threat.norm]
        sizes = torch.linalg.vector_norm(delta.flatten(1).double(), ord=order, dim=1)
        most = largest_norm(self.protocol.threat.norm, float(self.protocol.threat.eps))
        inside: Tensor = sizes <= most
        return inside.cpu()

    def _tied(self, images: Tensor) -> Tensor:
        """Whether two classes lead by less than rounding, measured without what all share."""
        tied = []
        with torch.no_grad():
            for part in torch.split(images, self.batch_size):
                logits = self.model(part).float()
                logits = logits - logits.mean(dim=1, keepdim=True)
                top = logits.topk(2, dim=1).values
                tied.append(top[:, 0] - top[:, 1] <= _TIE * logits.abs().amax(dim=1))
        return torch.cat(tied).cpu()


def _batch_size(result: Result) -> int:
    """That of the result's own run; an author may have written anything."""
    stored = result.settings.get("batch_size")
    return stored if isinstance(stored, int) and 1 <= stored <= _LARGEST_BATCH else 100


def _some(ids: list[int]) -> str:
    rest = len(ids) - _SHOWN
    shown = ", ".join(map(str, ids[:_SHOWN]))
    return f"example{'s' if len(ids) > 1 else ''} {shown}" + (
        f" and {rest} more" if rest > 0 else ""
    )
