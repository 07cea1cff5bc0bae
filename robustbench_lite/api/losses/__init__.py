"""`rbl.losses`: the loss of each defense, for a training loop of one's own.

Each function is the objective of the defense of its name (`rbl list defenses`), the one that
`rbl train` minimises: a 0-dim tensor with a graph. All take, in this order,

    model    maps images to logits (B, K); it is called in the mode that it is in (train mode)
    x        images (B, C, H, W) in [0, 1], of a floating-point type
    y        labels (B,), int64
    x_adv    what `rbl.craft` or any other attack made of x, of the same shape, type and device

and many `label_loss`, what the papers' cross-entropy is replaced by: `CrossEntropy(smoothing)`,
`Encouraging(log_end)`, `Focal(gamma)`, here by these names. Defaults are the papers' or the
authors' code's, as each function says. A defense's schedule is the caller's: where a paper begins
to weight later, call `pgd_at`, `trades` or `mart` in the epochs before.

All raise InputError for a wrong shape, type or device, for labels that are no class, and for
constants outside their range.
"""

from robustbench_lite.api.losses.adversarial import (
    alp,
    fast_at,
    fat,
    free_at,
    mart,
    n_fgsm,
    pgd_at,
    random_mask,
    standard,
    trades,
)
from robustbench_lite.api.losses.guided import bgat, hat, lbgat, lbgat_alp, lbgat_trades
from robustbench_lite.api.losses.imbalanced import (
    balanced_softmax,
    cb_reweight,
    focal,
    ldam_drw,
    srat,
)
from robustbench_lite.api.losses.outliers import acet, aloe, oe
from robustbench_lite.api.losses.reweighted import irat, lrat, mail_at, mail_mart, mail_trades
from robustbench_lite.defenses.instance_weights import steps_resisted
from robustbench_lite.defenses.label_losses import CrossEntropy, Encouraging, Focal

__all__ = [
    "CrossEntropy",
    "Encouraging",
    "Focal",
    "acet",
    "aloe",
    "alp",
    "balanced_softmax",
    "bgat",
    "cb_reweight",
    "fast_at",
    "fat",
    "focal",
    "free_at",
    "hat",
    "irat",
    "lbgat",
    "lbgat_alp",
    "lbgat_trades",
    "ldam_drw",
    "lrat",
    "mail_at",
    "mail_mart",
    "mail_trades",
    "mart",
    "n_fgsm",
    "oe",
    "pgd_at",
    "random_mask",
    "srat",
    "standard",
    "steps_resisted",
    "trades",
]
