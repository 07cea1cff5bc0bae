"""Published rows measured again: which network is which row, and what ran on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from robustbench_lite.checkpoints.checkpoint import Card
from robustbench_lite.checkpoints.model_source import LoadedModel
from robustbench_lite.core.describe_diff import describe_difference
from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets import DATASETS, dataset_info, load_split
from robustbench_lite.datasets.catalogue import known_variants
from robustbench_lite.leaderboard.published.comparability import (
    ModelProvenance,
    judge,
    unmeasurable,
)
from robustbench_lite.leaderboard.published.records import CLEAN_METRIC, Cell, PublishedRow
from robustbench_lite.leaderboard.published.reproductions import Reproduction, unmeasured
from robustbench_lite.reproduction.measure import (
    Reporter,
    ReproductionOptions,
    ResultFinder,
    attacks_of,
    compared_settings,
    published_protocol,
)
from robustbench_lite.training.recipe import load_recipe


def assign(
    rows: Sequence[PublishedRow], networks: Sequence[tuple[str, LoadedModel]]
) -> dict[str, list[LoadedModel]]:
    """Which networks stand for which rows.

    A network belongs to the row it is given with; else to the row whose weights it has; else to
    those whose recipe it was trained by; else to an only row.

    Args:
        rows: those chosen.
        networks: each with the row that the user named for it, or with `""`.

    Returns:
        PublishedRow id -> networks, in the order of rows; rows without one are left out.

    Raises:
        InputError: for a network that is none of the rows, or was trained on other classes.
    """
    found: dict[str, list[LoadedModel]] = {row.id: [] for row in rows}
    for named, network in networks:
        matching = _matching_rows(rows, named, network)
        if not matching:
            by = _recipe_name(network.card)
            raise InputError(
                f"{network.name} ({f'trained by recipe {by}' if by else 'of no recipe'}) is none "
                f"of the {len(rows)} rows chosen: choose its row with --rows, or write "
                "ROW=CHECKPOINT"
            )
        for row in matching:
            if network.card is not None and network.card.dataset != row.dataset:
                raise InputError(
                    f"{network.name} was trained on {network.card.dataset}, row {row.id} is on "
                    f"{row.dataset}"
                )
            found[row.id].append(network)
    return {row_id: networks for row_id, networks in found.items() if networks}


def _matching_rows(
    rows: Sequence[PublishedRow], named: str, network: LoadedModel
) -> list[PublishedRow]:
    if named:
        return [row for row in rows if named in (row.id, row.id.rpartition("/")[2])]
    by_weights = [row for row in rows if row.weights and row.weights == network.hash]
    recipe = _recipe_name(network.card)
    by_recipe = [row for row in rows if recipe and Path(row.recipe).stem == recipe]
    return by_weights or by_recipe or (list(rows) if len(rows) == 1 else [])


def provenance_of(
    row: PublishedRow, source: LoadedModel, terms: ReproductionOptions
) -> ModelProvenance:
    """How a network relates to a row: by its hash, by its recipe, or by what the user says.

    Raises:
        InputError: when the user calls published weights what was trained here.
    """
    card = source.card
    if row.weights and row.weights == source.hash:
        return ModelProvenance("published weights")
    if card is None or not card.recipe:
        return ModelProvenance("published weights" if terms.released else "unknown")
    if terms.released:
        raise InputError(
            f"--released, but {source.name} was trained here by recipe {_recipe_name(card)}: the "
            "published weights come by `rbl import`"
        )
    seed = card.seed
    if not row.recipe:
        return ModelProvenance("unknown", seed=seed, selection=card.selection)
    wanted = load_recipe(row.recipe).as_dict()
    return ModelProvenance(
        "retrained",
        seed=seed,
        selection=card.selection,
        difference=describe_difference(_without_seed(wanted), _without_seed(card.recipe)),
        canonical=_trained_on_original(card, terms.data_dir),
    )


def compare_rows(
    rows: Sequence[PublishedRow],
    networks: Mapping[str, Sequence[LoadedModel]],
    terms: ReproductionOptions,
    *,
    progress: Reporter,
) -> list[Reproduction]:
    """`compare_row` for each row, in order; the same call again gives the same.

    Args:
        rows: those chosen.
        networks: row id to the networks that stand for it.
        terms: of the call.
        progress: see `Reporter`.
    """

    def compared() -> list[Reproduction]:
        return [
            one
            for row in rows
            for one in compare_row(row, networks.get(row.id, []), terms, progress=progress)
        ]

    # Which stored result serves a number depends on all that are there. So everything that is
    # missing is measured first, and only then are results chosen.
    compared()
    return compared()


def compare_row(
    row: PublishedRow,
    sources: Sequence[LoadedModel],
    terms: ReproductionOptions,
    *,
    progress: Reporter,
) -> list[Reproduction]:
    """Measure what a published row holds, and judge each number.

    Args:
        row: the published row.
        sources: networks that stand for it, one for each seed; none leaves every cell unmeasured.
        terms: of the call.
        progress: see `Reporter`.

    Returns:
        One reproduction for each number of the row, in its order.
    """
    if not sources:
        return [unmeasured(row, cell, "not measured") for cell in row.cells]
    if row.dataset not in DATASETS:
        return [unmeasured(row, cell, f"data set {row.dataset} is not here") for cell in row.cells]
    data = load_split(row.dataset, "test", data_dir=terms.data_dir, progress=True)
    origins = [provenance_of(row, source, terms) for source in sources]
    _check_seeds(row, origins)
    finder = ResultFinder(data, terms, progress)
    return [_compare_cell(row, cell, sources, origins, finder) for cell in row.cells]


def _check_seeds(row: PublishedRow, origins: Sequence[ModelProvenance]) -> None:
    """Several networks for one row are seeds of one recipe, each once."""
    kinds = sorted({origin.kind for origin in origins})
    if len(kinds) > 1:
        raise InputError(f"row {row.id} has networks of two kinds ({' and '.join(kinds)})")
    seeds = [origin.seed for origin in origins]
    for seed in seeds:
        if seeds.count(seed) > 1:
            raise InputError(
                f"row {row.id} has {seeds.count(seed)} networks of training seed {seed}: give one "
                "for each seed"
            )


def _compare_cell(
    row: PublishedRow,
    cell: Cell,
    sources: Sequence[LoadedModel],
    origins: Sequence[ModelProvenance],
    finder: ResultFinder,
) -> Reproduction:
    terms = finder.terms
    if reason := unmeasurable(cell):
        return unmeasured(row, cell, reason)
    whole = cell.n or len(finder.data)
    eps = terms.eps or cell.eps
    protocol = finder.protocol_of(row, cell, eps)
    if protocol is None:
        return unmeasured(row, cell, f"protocol {terms.protocol} has no such attack")
    wanted = attacks_of(cell, protocol)
    measured = tuple(
        finder.measure(source, origin, protocol, wanted, terms.images(finder.data, whole))
        for source, origin in zip(sources, origins, strict=True)
    )
    stated: Sequence[Mapping[str, str]] = ()
    if cell.metric != CLEAN_METRIC:
        published = published_protocol(cell.protocol, eps=eps)
        stated = [compared_settings(spec) for spec in attacks_of(cell, published)]
    return Reproduction(row, cell, measured, judge(row, cell, measured, stated=stated, whole=whole))


def _recipe_name(card: Card | None) -> str:
    return str(card.recipe.get("name", "")) if card and card.recipe else ""


def _without_seed(recipe: Mapping[str, object]) -> dict[str, object]:
    """A recipe without its name and seed: what has to agree between two runs of one row."""
    kept = {key: value for key, value in recipe.items() if key != "name"}
    training = kept.get("training")
    if isinstance(training, Mapping):
        kept["training"] = {key: value for key, value in training.items() if key != "seed"}
    return kept


def _trained_on_original(card: Card, data_dir: str | None) -> bool | None:
    """Whether the training pixels were the original ones, by their hash; None when unknown."""
    known = dataset_info(card.dataset).canonical_hashes.get("train")
    if known is not None:
        return bool(card.dataset_hash == known)
    if card.dataset_hash in known_variants(card.dataset):
        return False
    data = load_split(card.dataset, "train", data_dir=data_dir, progress=True)
    return data.canonical if data.content_hash == card.dataset_hash else None
