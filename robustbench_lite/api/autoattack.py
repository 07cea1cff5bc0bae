"""`rbl.AutoAttack`: the interface of AutoAttack's authors on our engine and our verifier."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from robustbench_lite.api.attack_objects import Eps
from robustbench_lite.api.network import Network, classes_of, ready
from robustbench_lite.attacks.acceleration.search_network import search_network
from robustbench_lite.attacks.autoattack.apgd import ApgdCe, ApgdDlr, ApgdT
from robustbench_lite.attacks.autoattack.ensemble import run_stages
from robustbench_lite.attacks.autoattack.fab import Fab, FabT
from robustbench_lite.attacks.autoattack.square import Square
from robustbench_lite.attacks.contract import Attack, RunTerms
from robustbench_lite.attacks.protocol import load_protocol
from robustbench_lite.attacks.threat_model import Norm, ThreatModel, parse_eps
from robustbench_lite.checkpoints.model_source import LoadedModel
from robustbench_lite.checkpoints.user_network import passes_of
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.numerics import check_count, check_seed, deterministic, plain_numerics
from robustbench_lite.core.random_numbers import seeded
from robustbench_lite.core.registry import unknown_name
from robustbench_lite.datasets.in_memory import WHAT, as_images, as_labels, as_split, sample_of
from robustbench_lite.verifier import verify

ATTACKS = ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t")
VERSIONS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ATTACKS,
    "rand": ("apgd-ce", "apgd-dlr"),
    "custom": (),
}
Pair = tuple[Tensor, Tensor]


@dataclass
class ApgdSettings:
    """`adversary.apgd` and `adversary.apgd_targeted`, by the authors' names."""

    n_restarts: int = 5
    n_iter: int = 100
    eot_iter: int = 1
    thr_decr: float = 0.75
    use_largereps: bool = False
    n_target_classes: int = 9


@dataclass
class FabSettings:
    """`adversary.fab`, by the authors' names."""

    n_restarts: int = 5
    n_iter: int = 100
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    n_target_classes: int = 9


@dataclass
class SquareSettings:
    """`adversary.square`, by the authors' names."""

    n_queries: int = 5000
    n_restarts: int = 1
    p_init: float = 0.8


class AutoAttack:
    """AutoAttack (Croce and Hein 2020, arXiv:2003.01690), called as its authors' code is.

    A script for the authors' class (github.com/fra31/auto-attack) runs with another import. The
    verdicts are those of `aa_standard` in `linf_standard` on the same images; what differs from
    the authors' code is in docs/attacks.md. Defaults are theirs, but for these: `device` is where
    the network is; `seed=None` is 0, where theirs is the clock; targets are at most K - 1;
    `version="rand"` counts an image as broken when more than half of 31 passes are wrong.

    Args:
        model: an `nn.Module` or a function, from images (B, C, H, W) in [0, 1] to logits (B, K).
        norm: `"Linf"`, `"L2"` or `"L1"`.
        eps: radius in [0, 1] units: a number, "8/255" or a Fraction.
        seed: of every random draw.
        verbose: write accuracies to stdout as the attacks finish.
        attacks_to_run: names of `ATTACKS`, with `version="custom"`.
        version: `"standard"`, `"plus"`, `"rand"` or `"custom"`.
        is_tf_model: must be False.
        device: where to compute; by default where the network is.
        log_path: a file that the lines of `verbose` are added to.
        attacks: `attacks_to_run` by the name that PyPI's pyautoattack has for it.

    Raises:
        InputError: one line for a wrong argument; it is a `ValueError`.
    """

    def __init__(
        self,
        model: Network,
        norm: Norm = "Linf",
        eps: Eps = 0.3,
        seed: int | None = None,
        verbose: bool = True,
        attacks_to_run: Sequence[str] = (),
        version: Literal["standard", "plus", "rand", "custom"] = "standard",
        is_tf_model: bool = False,
        device: str | torch.device | None = None,
        log_path: str | Path | None = None,
        *,
        attacks: Sequence[str] | None = None,
    ) -> None:
        if is_tf_model:
            raise InputError("is_tf_model=True: only networks of torch are attacked here")
        if version not in VERSIONS:
            raise InputError(unknown_name("version of AutoAttack", version, VERSIONS))
        self.attacks_to_run: list[str] = list(attacks or attacks_to_run)
        if self.attacks_to_run and version != "custom":
            raise InputError(
                f"attacks_to_run would be overridden by version={version!r}: use version='custom'"
            )
        self.model, self.norm, self.epsilon, self.seed = model, norm, eps, seed
        self.verbose, self.device = verbose, device
        self.version: str = version
        self._logger = _logger(log_path)
        self.apgd, self.fab, self.square = ApgdSettings(), FabSettings(), SquareSettings()
        self.apgd_targeted = ApgdSettings(n_restarts=1)
        self._threat()
        if version != "custom":
            self.set_version(version)

    def set_version(self, version: str = "standard") -> None:
        """Set attacks and parameters to those of a version."""
        if version not in VERSIONS:
            raise InputError(unknown_name("version of AutoAttack", version, VERSIONS))
        staged = version == "standard" and self.norm == "L1"
        self.version, self.attacks_to_run = version, list(VERSIONS[version])
        self.apgd = ApgdSettings(
            n_restarts=5 if version == "plus" or staged else 1,
            eot_iter=20 if version == "rand" else 1,
            use_largereps=staged,
        )
        self.apgd_targeted = ApgdSettings(
            n_restarts=1, use_largereps=staged, n_target_classes=5 if staged else 9
        )
        self.fab = FabSettings(n_restarts=1 if version == "standard" else 5)
        self.square = SquareSettings()

    def run_standard_evaluation(
        self,
        x_orig: object,
        y_orig: object,
        bs: int = 250,
        return_labels: bool = False,
        *,
        batch_size: int | None = None,
        state_path: Path | None = None,
    ) -> Tensor | Pair:
        """Attack images, each attack on what the earlier ones left.

        Args:
            x_orig: images (N, C, H, W) in [0, 1].
            y_orig: labels (N,), int64.
            bs: images at once.
            return_labels: also return what the network says of the images.
            batch_size: `bs` by PyPI's name; where it is given a pair is returned, as there.
            state_path: refused: `rbl.evaluate(..., out=)` is what goes on after an interruption.

        Returns:
            Adversarial images (N, C, H, W), the clean image where no attack succeeded; with
            `return_labels` or `batch_size` also the predictions (N,).
        """
        if state_path is not None:
            raise InputError("state_path is not supported: rbl.evaluate(..., out=DIR) resumes")
        self._say(f"using {self.version} version including {', '.join(self.attacks_to_run)}")
        pair = self._evaluated(
            x_orig, y_orig, bs if batch_size is None else batch_size, self.attacks_to_run
        )
        return pair if return_labels or batch_size is not None else pair[0]

    def run_standard_evaluation_individual(
        self, x_orig: object, y_orig: object, bs: int = 250, return_labels: bool = False
    ) -> dict[str, Tensor] | dict[str, Pair]:
        """Each attack by itself on all images: by attack what `run_standard_evaluation` returns."""
        self._say(f"using {self.version} version including {', '.join(self.attacks_to_run)}")
        found: dict[str, Pair] = {}
        for attack in self.attacks_to_run:
            found[attack] = self._evaluated(x_orig, y_orig, bs, [attack])
        return found if return_labels else {attack: pair[0] for attack, pair in found.items()}

    def clean_accuracy(self, x_orig: object, y_orig: object, bs: int = 250) -> float:
        """Share of images that the network classifies correctly."""
        with self._opened(x_orig, y_orig, bs) as run:
            right = run.judged(run.x, bs, 1)[0]
        self._say(f"clean accuracy: {float(right.double().mean()):.2%}")
        return float(right.double().mean())

    def _threat(self) -> ThreatModel:
        return ThreatModel(self.norm, parse_eps(self.epsilon))

    def _say(self, text: str) -> None:
        if self.verbose:
            self._logger.info(text)

    @contextmanager
    def _opened(self, x: object, y: object, bs: int) -> Iterator[_Run]:
        """A block with network, images and labels, all checked, on one device."""
        check_count("bs", bs)
        threat, images = self._threat(), as_images(x)
        labels = as_labels(y, images)
        threat.check_diameter(images[0].numel())
        seed = 0 if self.seed is None else self.seed
        check_seed(seed)
        with ready(self.model, device=self.device) as (source, device), plain_numerics():
            classes = classes_of(source, sample_of(images).to(device))
            data = as_split(images, labels, classes=classes, name=WHAT).to(device)
            with deterministic(threads=torch.get_num_threads(), seed=seed), seeded(seed):
                yield _Run(source, data.pixels(slice(None)), data.labels, threat, images.device)

    def _evaluated(self, x: object, y: object, bs: int, names: Sequence[str]) -> Pair:
        """Adversarial images and predictions of some attacks together."""
        attacks, begin = self._stages(names), time.perf_counter()
        passes = load_protocol("aa_rand", eps=0).passes if self.version == "rand" else 1
        with self._opened(x, y, bs) as run, passes_of(run.source.model):
            right, prediction = run.judged(run.x, bs, passes)
            standing, total = right.clone(), len(right)
            self._say(f"initial accuracy: {_share(standing, total)}")

            def on_stage(name: str, broken: Tensor) -> None:
                standing[rows[broken]] = False
                self._say(
                    f"robust accuracy after {name.replace('_', '-').upper()}: "
                    f"{_share(standing, total)} (total time {time.perf_counter() - begin:.1f} s)"
                )

            rows = right.nonzero().flatten()
            terms = run.terms(rows, f"aa_{self.version}", self.seed or 0, bs, passes, on_stage)
            found = run.x.clone()
            if len(rows):
                found[rows] = run_stages(attacks, run.source.model, run.x[rows], run.y[rows], terms)
            robust, predicted = run.judged(found, bs, passes)
            x_adv = torch.where((right & ~robust)[:, None, None, None], found, run.x)
            predicted = torch.where(robust, prediction, predicted)
            self._say(f"robust accuracy: {_share(robust, total)}")
            return x_adv.to(run.home), predicted.to(run.home)

    def _stages(self, names: Sequence[str]) -> Mapping[str, Attack]:
        """The attacks by our names, with the parameters set now."""
        if not names:
            raise InputError(f"attacks_to_run is empty: choose of {', '.join(ATTACKS)}")
        return {name.replace("-", "_"): self._stage(name) for name in names}

    def _stage(self, name: str) -> Attack:
        if name not in ATTACKS:
            raise InputError(unknown_name("attack of AutoAttack", name, dict.fromkeys(ATTACKS)))
        if name == "square":
            own = self.square
            return Square(queries=own.n_queries, restarts=own.n_restarts, p_init=own.p_init)
        if name.startswith("fab"):
            fab = self.fab
            given = (fab.alpha_max, fab.eta, fab.beta)
            if name == "fab":
                return Fab(fab.n_iter, fab.n_restarts, *given)
            return FabT(fab.n_iter, 1, *given, targets=fab.n_target_classes)
        apgd = self.apgd_targeted if name == "apgd-t" else self.apgd
        terms = (apgd.n_iter, apgd.n_restarts, apgd.thr_decr, apgd.eot_iter, apgd.use_largereps)
        if name == "apgd-t":
            return ApgdT(*terms, targets=apgd.n_target_classes)
        return ApgdCe(*terms) if name == "apgd-ce" else ApgdDlr(*terms)


@dataclass(frozen=True)
class _Run:
    """One call: the network, all images and labels on its device, and where they came from."""

    source: LoadedModel
    x: Tensor
    y: Tensor
    threat: ThreatModel
    home: torch.device

    def judged(self, x_adv: Tensor, batch_size: int, passes: int) -> Pair:
        """By the one verifier: not broken, bool (N,), and predictions (N,)."""
        verdict = verify(
            self.source.model,
            self.x,
            x_adv,
            self.y,
            threat=self.threat,
            batch_size=batch_size,
            passes=passes,
        )
        return ~verdict.broken, verdict.prediction

    def terms(
        self, rows: Tensor, stream: str, seed: int, batch_size: int, passes: int, on_stage: object
    ) -> RunTerms:
        """What the attacks are told; they search on the network that an evaluation searches on."""
        network = search_network(
            self.source.model, precision="float32", device=self.x.device, like=self.x[0]
        ).module
        return RunTerms(
            norm=self.threat.norm,
            eps=float(self.threat.eps),
            ids=rows,
            seed=seed,
            stream=stream,
            batch_size=batch_size,
            passes=passes,
            network=network,
            on_stage=on_stage,  # type: ignore[arg-type]
        )


def _share(standing: Tensor, total: int) -> str:
    return f"{int(standing.sum()) / total:.2%}"


def _logger(path: str | Path | None) -> logging.Logger:
    """A logger of its own, to stdout as the authors print, and to a file."""
    logger = logging.Logger("AutoAttack", logging.INFO)
    logger.addHandler(logging.StreamHandler(sys.stdout))
    if path is not None:
        try:
            logger.addHandler(logging.FileHandler(path, mode="a", encoding="utf-8", delay=False))
        except OSError as error:
            raise InputError(
                f"log_path={str(path)!r} cannot be written ({error.strerror}): name another file"
            ) from None
    return logger
