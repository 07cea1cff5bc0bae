"""The defenses and the losses on labels by name. Imports no torch; `.load(name)` does."""

from __future__ import annotations

from robustbench_lite.core.registry import Entry, Registry

_HERE = "robustbench_lite.defenses"

DEFENSES = Registry(
    "defense",
    {
        "standard": Entry(
            f"{_HERE}.methods.standard:Standard",
            "cross-entropy on clean images: the undefended baseline",
            "empirical risk minimisation",
            "faithful",
        ),
        "pgd_at": Entry(
            f"{_HERE}.methods.pgd_at:PgdAt",
            "PGD adversarial training: cross-entropy on crafted images",
            "Madry et al. 2018, arXiv:1706.06083",
            "faithful",
        ),
        "trades": Entry(
            f"{_HERE}.methods.trades:Trades",
            "clean cross-entropy plus beta times KL(clean || crafted)",
            "Zhang et al. 2019, arXiv:1901.08573",
            "faithful",
        ),
        "fast_at": Entry(
            f"{_HERE}.methods.fast_at:FastAt",
            "FGSM-RS: one large step from a random start",
            "Wong et al. 2020, arXiv:2001.03994",
            "faithful",
        ),
        "n_fgsm": Entry(
            f"{_HERE}.methods.n_fgsm:NFgsm",
            "one step from noise twice as large as the radius, not projected onto the ball",
            "de Jorge et al. 2022, arXiv:2202.01181",
            "faithful",
        ),
        "free_at": Entry(
            f"{_HERE}.methods.free_at:FreeAt",
            "each batch replayed m times: every pass moves the weights and the perturbation",
            "Shafahi et al. 2019, arXiv:1904.12843",
            "faithful",
        ),
        "fat": Entry(
            f"{_HERE}.methods.fat:Fat",
            "friendly AT: PGD stopped tau steps after the first misclassification",
            "Zhang et al. 2020, arXiv:2002.11242",
            "faithful",
        ),
        "hat": Entry(
            f"{_HERE}.methods.hat:Hat",
            "helper examples beyond the crafted ones, labelled by a standard network",
            "Rade and Moosavi-Dezfooli 2022, ICLR",
            "faithful",
        ),
        "alp": Entry(
            f"{_HERE}.methods.alp:Alp",
            "adversarial logit pairing, in the form LBGAT compares with or Kannan's",
            "Kannan et al. 2018, arXiv:1803.06373",
            "faithful",
        ),
        "bgat": Entry(
            f"{_HERE}.methods.bgat:Bgat",
            "fits a frozen natural teacher's clean logits on crafted images",
            "Cui et al. 2021, arXiv:2011.11164",
            "faithful",
        ),
        "lbgat": Entry(
            f"{_HERE}.methods.lbgat:Lbgat",
            "BGAT with a natural network that is trained jointly",
            "Cui et al. 2021, arXiv:2011.11164",
            "faithful",
        ),
        "lbgat_alp": Entry(
            f"{_HERE}.methods.lbgat:LbgatAlp",
            "LBGAT plus logit pairing of the robust network",
            "Cui et al. 2021, arXiv:2011.11164",
            "faithful",
        ),
        "lbgat_trades": Entry(
            f"{_HERE}.methods.lbgat:LbgatTrades",
            "LBGAT with the KL attack and alpha times TRADES' KL; alpha 0 is LBGAT0",
            "Cui et al. 2021, arXiv:2011.11164",
            "faithful",
        ),
        "irat": Entry(
            f"{_HERE}.methods.irat:Irat",
            "GAIRAT: cross-entropy weighted by how many PGD steps an example resists",
            "Zhang et al. 2021, arXiv:2010.01736",
            "faithful",
        ),
        "mail_at": Entry(
            f"{_HERE}.methods.mail:MailAt",
            "AT weighted by probabilistic margins",
            "Wang et al. 2021, arXiv:2106.07904",
            "faithful",
        ),
        "mail_trades": Entry(
            f"{_HERE}.methods.mail:MailTrades",
            "TRADES whose KL is weighted by probabilistic margins",
            "Wang et al. 2021, arXiv:2106.07904",
            "faithful",
        ),
        "mail_mart": Entry(
            f"{_HERE}.methods.mail:MailMart",
            "MART whose BCE is weighted by probabilistic margins",
            "Wang et al. 2021, arXiv:2106.07904",
            "faithful",
        ),
        "mart": Entry(
            f"{_HERE}.methods.mart:Mart",
            "boosted cross-entropy plus KL weighted by clean misclassification",
            "Wang et al. 2020, ICLR",
            "faithful",
        ),
        "lrat": Entry(
            f"{_HERE}.methods.lrat:Lrat",
            "weights inside each (image, crafted variants) pair, none across the batch",
            "Gao et al. 2021, arXiv:2106.15776",
            "reconstruction",
        ),
        "srat": Entry(
            f"{_HERE}.methods.srat:Srat",
            "class-balanced AT plus separation of classes in feature space",
            "Wang et al. 2021, arXiv:2107.13639",
            "from memory",
        ),
        "cb_reweight": Entry(
            f"{_HERE}.methods.srat:CbReweight",
            "AT with class weights by effective number",
            "Cui et al. 2019, arXiv:1901.05555",
            "faithful",
        ),
        "focal": Entry(
            f"{_HERE}.methods.srat:FocalAt",
            "AT with the focal loss",
            "Lin et al. 2017, arXiv:1708.02002",
            "faithful",
        ),
        "ldam_drw": Entry(
            f"{_HERE}.methods.srat:LdamDrw",
            "AT with label-distribution-aware margins, class weights from a late epoch on",
            "Cao et al. 2019, arXiv:1906.07413",
            "faithful",
        ),
        "balanced_softmax": Entry(
            f"{_HERE}.methods.balanced_softmax:BalancedSoftmaxAt",
            "AT-BSL: AT with the balanced softmax loss",
            "Yue et al. 2024, arXiv:2403.10073",
            "faithful",
        ),
        "aloe": Entry(
            f"{_HERE}.methods.aloe:Aloe",
            "crafted inliers and crafted outliers, the latter pushed to uniform outputs",
            "Chen et al. 2020, arXiv:2003.09711",
            "faithful",
        ),
        "oe": Entry(
            f"{_HERE}.methods.aloe:Oe",
            "outlier exposure: clean inliers and outliers",
            "Hendrycks et al. 2019, arXiv:1812.04606",
            "faithful",
        ),
        "acet": Entry(
            f"{_HERE}.methods.aloe:Acet",
            "clean inliers, half of the outliers crafted to look confident (ATOM's form)",
            "Hein et al. 2019, arXiv:1812.05720",
            "faithful",
        ),
        "random_mask": Entry(
            f"{_HERE}.methods.random_mask:RandomMaskTraining",
            "clean cross-entropy on a network with fixed random feature masks",
            "Luo et al. 2020, arXiv:2007.14249",
            "faithful",
        ),
    },
    entry_point_group="robustbench_lite.defenses",
)

LABEL_LOSSES = Registry(
    "label loss",
    {
        "cross_entropy": Entry(
            f"{_HERE}.label_losses:CrossEntropy",
            "cross-entropy, smoothed where the recipe says so",
            "Szegedy et al. 2016, arXiv:1512.00567",
        ),
        "encouraging": Entry(
            f"{_HERE}.label_losses:Encouraging",
            "cross-entropy plus a bonus for well-classified examples",
            "Zhao et al. 2022, arXiv:2110.06537",
        ),
        "focal": Entry(
            f"{_HERE}.label_losses:Focal",
            "cross-entropy times (1 - p)^gamma",
            "Lin et al. 2017, arXiv:1708.02002",
        ),
        "ldam": Entry(
            f"{_HERE}.label_losses:Ldam",
            "cross-entropy with a margin that grows with a class's rarity",
            "Cao et al. 2019, arXiv:1906.07413",
        ),
        "balanced_softmax": Entry(
            f"{_HERE}.label_losses:BalancedSoftmax",
            "cross-entropy of the logits plus the logarithm of each class's number of images",
            "Ren et al. 2020, arXiv:2007.10740",
        ),
    },
)


def shown_name(name: str) -> str:
    """A defense's name as tables show it: what is not known to be its authors' method says so."""
    status = DEFENSES[name].status if name in DEFENSES else ""
    return f"{name} ({status})" if status in ("reconstruction", "from memory") else name
