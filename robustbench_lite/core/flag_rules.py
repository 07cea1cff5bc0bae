"""The table of flags: what is measured, above which value a flag is raised, and what it means.

Pure rules without torch: an evaluation raises flags by them, the leaderboard raises them again from
the checks that a result stores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_Z_95 = 1.959963984540054  # the standard normal's quantile at 0.975


@dataclass(frozen=True)
class Check:
    """What a check measured.

    Args:
        value: see the flag's `measures`.
        points: number of examples it was measured on; 0 where there was nothing to look at.
    """

    value: float
    points: int


@dataclass(frozen=True)
class Flag:
    """A check: raised when its value is above the threshold, which makes a row *flagged*.

    Args:
        name: in results and on pages.
        threshold: largest value that is still fine.
        at_least: of a share: examples that must be behind it, so that one alone raises nothing.
        measures: what the value is.
        meaning: what a raised flag says of the number.
        follow_up: what to do about it.
        source: where the check and its threshold come from.
        by_lower_bound: of a share: compared with the threshold is not the share itself but the
            lower end of its two-sided 95 % Wilson interval, so that few examples raise nothing.
        older_thresholds: of earlier versions: a stored flag with one of them that the check does
            not raise today is no flag.
    """

    name: str
    threshold: float
    at_least: int
    measures: str
    meaning: str
    follow_up: str
    source: str
    by_lower_bound: bool = False
    older_thresholds: tuple[float, ...] = ()

    def is_raised(self, check: Check) -> bool:
        """Whether the value is above the threshold, with enough examples behind it."""
        return self.is_raised_by(check.value, check.points)

    def is_raised_by(self, value: float, points: int) -> bool:
        """The same for a check's two numbers, as a stored result holds them."""
        compared = _wilson_lower(value, points) if self.by_lower_bound else value
        if compared <= self.threshold:
            return False
        return self.at_least <= 1 or round(value * points) >= self.at_least


def _wilson_lower(share: float, n: int) -> float:
    """Lower end of the two-sided 95 % Wilson score interval (Wilson 1927, JASA 22) of a share of n.

    That of `leaderboard.statistics.accuracy.wilson_interval`, which this room may not import.
    """
    if n == 0:
        return 0.0
    p, z2 = min(max(share, 0.0), 1.0), _Z_95**2
    return (2 * n * p + z2 - _Z_95 * math.sqrt(4 * n * p * (1 - p) + z2)) / (2 * (n + z2))


FLAGS = (
    Flag(
        "batch_dependent",
        1e-3,
        1,
        "largest change of a logit with the images beside it, relative to the image's largest "
        "logit, both less the mean over classes; of a randomised network with the same draws",
        "an image's logits depend on the other images of its batch, so an attack on a batch and "
        "the verdict on it see different networks",
        "compute nothing over the batch at test time; if bn_train_mode is raised too, that is why",
        "design of robustbench_lite; float rounding is about 1e-6 of the logits' size",
    ),
    Flag(
        "bn_train_mode",
        0.0,
        1,
        "batch norms that use batch statistics in eval mode, and running statistics that a forward "
        "pass changes",
        "BatchNorm is in train mode during evaluation, or has no running statistics: predictions "
        "depend on the batch, and attacking the network changes it",
        "call model.eval() in the factory, keep track_running_stats=True, and do not override "
        "train(); then evaluate again",
        "design of robustbench_lite; a network in eval mode has none",
    ),
    Flag(
        "randomised",
        1e-4,
        1,
        "largest difference of a logit between two passes of an image, relative to the image's "
        "largest logit, both less the mean over classes",
        "two passes of the same image give different logits, so single-pass verdicts are luck",
        "rbl evaluate ... --protocol aa_rand (aa_rand_l2 for L2): gradients averaged over draws, "
        "verdicts by majority; there this flag is measured and not raised",
        "pyautoattack, checks.py, check_randomized, with its threshold; skipped by its version "
        "'rand' too",
    ),
    Flag(
        "probabilities",
        0.0,
        1,
        "1 when every output is a probability vector to 1e-5, else 0",
        "the outputs are probabilities, not logits: losses computed from them have vanishing "
        "gradients and overstate robustness",
        "return the logits before the softmax, then evaluate again",
        "pyautoattack, checks.py, check_range_output",
    ),
    Flag(
        "zero_gradients",
        0.002,
        2,
        "share of examples that are right, whose logits change at one of 8 random corners of the "
        "ball, and where no entry of the gradient of CE, nor of the margin, on the input is above "
        "1e-12",
        "gradient attacks stand still there: what they report is not robustness",
        "attack through it: wrap the step without gradient in Bpda (docs/bpda.md) and evaluate "
        "again",
        "pyautoattack, checks.py, check_zero_gradients, which warns of the first such point; our "
        "threshold is its 0.2 points for Square. 1e-12 is what AutoAttack adds to a norm it "
        "divides by. Where the logits do not change in the ball, a zero gradient is right",
    ),
    Flag(
        "nan_gradients",
        0.0,
        1,
        "share of examples where a gradient of CE or of the margin on the input is NaN or infinite",
        "gradient attacks cannot step there",
        "find the operation whose derivative is infinite (sqrt or norm at 0, log of 0, 0 / 0), add "
        "a small number inside it, and evaluate again",
        "design of robustbench_lite; a finite network has none",
    ),
    Flag(
        "gradient_disagrees",
        0.1,
        1,
        "1 less the correlation, over 16 random sign directions at a random point of the ball, of "
        "the change that the margin's gradient predicts with the margin's central difference; "
        "median over 64 examples, at the best of four step sizes",
        "the gradient that the network gives is not that of its function: gradient attacks are led "
        "elsewhere, and what they report is not robustness",
        "return the true gradient (no detach, hook or custom backward that changes it), or declare "
        "a step that has none by Bpda (docs/bpda.md), and evaluate again",
        "design of robustbench_lite; Athalye et al. 2018, arXiv:1802.00420, Sec. 3.1, names such "
        "gradients. Threshold measured: honest networks stay below 0.02, gradients of 60 % of the "
        "pixels give 0.2",
    ),
    Flag(
        "loss_scale",
        0.1,
        5,
        "share of examples that CE-PGD breaks with smaller logits (a tenth, or as small as to make "
        "the median margin 1; the larger), less the share it breaks as they are",
        "the size of the logits hides examples from cross-entropy: its gradients vanish in float32",
        "rbl evaluate ... --protocol aa_standard: its DLR and margin losses do not see the scale; "
        "or divide the logits by a constant",
        "Carlini and Wagner 2016, arXiv:1607.04311 (defensive distillation); Croce and Hein 2020, "
        "arXiv:2003.01690, Sec. 4. Threshold measured: honest networks stay below 0.02, logits "
        "times 20 give 0.2",
    ),
    Flag(
        "huge_eps",
        0.1,
        2,
        "share of correct examples left after PGD at half the images' diameter (0.5 in Linf, "
        "sqrt(d) / 2 in L2; L1 is looked at in L2)",
        "at this radius every image can become the same grey one, so no network is right on more "
        "than one class: the attack fails, not the attacked",
        "rbl evaluate ... --protocol aa_standard at this eps; if more than a class survives, "
        "gradients are masked: attack by hand",
        "Athalye et al. 2018, arXiv:1802.00420, Sec. 3.1; Carlini et al. 2019, arXiv:1902.06705. "
        "Threshold: one class of ten; honest networks stay below 0.02",
    ),
    Flag(
        "double_normalisation",
        1.0,
        1,
        "times the images are normalised (scaled and shifted) before the first layer, if they "
        "arrive there with a mean beyond 1 or a spread beyond 2; otherwise 0 or 1",
        "the images are normalised twice: the network sees inputs it was not trained on",
        "normalise once: either in the wrapper or in the network; then evaluate again",
        "design of robustbench_lite; a normalised input has mean 0 and spread 1",
    ),
    Flag(
        "transfer_beats_white_box",
        0.1,
        5,
        "share of examples broken by CE-PGD crafted on a copy of the network (logits averaged over "
        "Gaussian noise of the ball's size, or times 10) and by no white-box attack of the row",
        "images crafted on another network are stronger than those crafted on this one: its "
        "gradients are shattered, or the row's attacks too weak",
        "rbl evaluate ... --protocol linf_standard (l2_standard for L2); if it stays up, rbl "
        "transfer from a network trained without the suspected part",
        "Athalye et al. 2018, arXiv:1802.00420, Sec. 3.1; the copies after Wu et al. 2018, "
        "arXiv:1802.09707, and Hitaj et al. 2021, arXiv:2103.01914. Threshold measured: honest "
        "networks stay below 0.07 where 20 steps are all their row has, and at 0 with AutoAttack",
    ),
    Flag(
        "black_box_beats_white_box",
        0.01,
        2,
        "share of examples that Square broke and no white-box attack of the row did; the lower "
        "end of its 95 % Wilson interval is compared",
        "gradient-free search is stronger than the gradient attacks: gradients are masked, and "
        "robust accuracy is likely to be lower still",
        "rbl evaluate ... --protocol aa_plus, and an attack made for this network",
        "pyautoattack, checks.py, check_square_sr, which warns above 0.2 points. Threshold "
        "measured: honest networks had up to 7 of 1,000 such examples, masked ones above 0.47",
        by_lower_bound=True,
        older_thresholds=(0.002,),
    ),
    Flag(
        "test_time_optimisation",
        0.0,
        1,
        "derivatives that the network computes during a forward pass, and parameters and buffers "
        "that a forward pass writes (but for batch norm's running statistics)",
        "the network optimises its input or itself at test time: gradient attacks see only a part "
        "of what it does, or attack another network at each pass",
        "rbl transfer from the same network without the optimisation, and an attack made for this "
        "network",
        "Croce et al. 2021, arXiv:2010.09670, Sec. 2 (no optimisation loop at inference); "
        "pyautoattack, checks.py, check_dynamic; other networks have none",
    ),
    Flag(
        "answers_depend_on_history",
        0.002,
        2,
        "share of examples on which the network, once it was asked other images, answers otherwise "
        "than a copy that has seen nothing else: other logits on the image or on neighbours in the "
        "ball, or another verdict on an attack's image (the larger share)",
        "the network remembers what it was asked, so an attack's queries change the verdict on it",
        "keep no state between forward passes, then evaluate again",
        "design of robustbench_lite; a network without state gives the same bits. Two examples: "
        "one alone may lie on a tie",
    ),
    Flag(
        "outside_ball",
        0.01,
        1,
        "share of an attack's images that are misclassified but outside the ball (the largest over "
        "attacks)",
        "an attack's misclassified images lie outside the ball, so its column says little of this "
        "threat model",
        "give the attack the protocol's norm and eps, or leave it out",
        "design of robustbench_lite; attacks that respect the ball have none",
    ),
)
# Known when the row's attacks are done; the others are measured on the network before them.
AFTER_ATTACKS = ("transfer_beats_white_box", "black_box_beats_white_box", "outside_ball")
MEASURED = tuple(flag.name for flag in FLAGS if flag.name not in AFTER_ATTACKS)

# Measured by gradients: 0 points on a network that gives none.
OF_GRADIENTS = ("zero_gradients", "nan_gradients", "gradient_disagrees", "loss_scale", "huge_eps")
NAN_GRADIENTS = "nan_gradients"  # measured on every example of any network that gives gradients

RANDOMISED = "randomised"
HISTORY = "answers_depend_on_history"
BLACK_BOX_FLAG = "black_box_beats_white_box"
LOSS_SCALE = "loss_scale"
HUGE_EPS = "huge_eps"
AUTOATTACK = "autoattack"  # the one attack of ours whose last stage may be a black box
# Attacks that use no gradient, by registered name.
BLACK_BOX = frozenset(
    {
        "square",
        "torchattacks:GN",
        "torchattacks:OnePixel",
        "torchattacks:Pixle",
        "torchattacks:Square",
        "torchattacks:VANILA",
    }
)

# Attacks that use gradients, by registered name. Of any other, such as one of a plugin, a stored
# result does not say which kind it is.
WHITE_BOX = frozenset(
    {"fgsm", "pgd", "pgd_int", "cw_l2", "apgd_ce", "apgd_dlr", "apgd_t", "fab", "fab_t"}
)

# By flag: the versions of AutoAttack one of which a result must hold to answer it. The other flags
# are answered by another network alone. `randomised` does not rise under `rand`.
AUTOATTACKS = frozenset({AUTOATTACK, "reference:autoattack"})
FOLLOW_UPS = {
    RANDOMISED: ("rand",),
    LOSS_SCALE: ("standard", "plus"),
    HUGE_EPS: ("standard", "plus"),
    "transfer_beats_white_box": ("standard", "plus"),
    BLACK_BOX_FLAG: ("plus",),
}


def may_raise(flag: Flag, *, passes: int) -> bool:
    """Whether a flag says anything against a network under a protocol.

    Args:
        flag: one of `FLAGS`.
        passes: forward passes of the protocol's verifier. Above 1 the protocol is made for
            randomised networks, and being one is no flaw.
    """
    return passes <= 1 or flag.name != RANDOMISED
