"""A checkpoint folder is a Hugging Face model repository, whose other files do not count."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from robustbench_lite.checkpoints.checkpoint import (
    Card,
    checkpoint_hash,
    load_checkpoint,
    parameter_count,
    save_checkpoint,
)
from robustbench_lite.models import build_model
from robustbench_lite.models.small_cnn import SmallCnn

SIZES = {
    "num_classes": 5,
    "in_channels": 1,
    "image_size": (8, 8),
    "mean": (0.25,),
    "std": (0.5,),
}


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model("small_cnn", **SIZES).eval()


def save(folder: Path, seed: int = 0, **changes: object) -> nn.Module:
    model = small(seed)
    values = {
        "name": "pgd_at | digits",
        "defense": "pgd_at",
        "architecture": "small_cnn",
        "architecture_kwargs": {},
        **SIZES,
        "dataset": "digits",
        "dataset_hash": "",
        "recipe": {},
        "seed": 0,
        "versions": {},
        "git_commit": "",
        "epoch": 2,
        "selection": "best validation robust accuracy",
        "metrics": {"clean_accuracy": 0.9},
        "notes": "a <b> note",
        "parameters": parameter_count(model),
    }
    save_checkpoint(folder, model, Card(**(values | changes)))
    return model


def test_the_configuration_builds_the_network(tmp_path: Path) -> None:
    model = save(tmp_path / "c")
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    assert config.pop("library_name") == "robustbench_lite"
    options = config.pop("architecture_kwargs")
    built = build_model(config.pop("architecture"), **config, **options)
    assert {n: t.shape for n, t in built.state_dict().items()} == {
        n: t.shape for n, t in model.state_dict().items()
    }


def test_text_of_a_card_cannot_break_the_page(tmp_path: Path) -> None:
    save(tmp_path / "c", defense='a\n---\nb: "c')
    readme = (tmp_path / "c" / "README.md").read_text()
    front = readme.split("---\n")[1]
    assert front.splitlines()[-1] == (
        'tags: ["adversarial-robustness", "a\\n---\\nb: \\"c", "small_cnn", "digits"]'
    )
    assert "# pgd\\_at \\| digits\n" in readme
    assert "| notes | a \\<b\\> note |" in readme


@pytest.mark.parametrize("lacking", [(), ("config.json", "README.md")], ids=["all", "older"])
def test_a_checkpoint_of_an_older_version_is_read_and_replaced(
    lacking: tuple[str, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "c"
    save(folder)
    for name in lacking:
        (folder / name).unlink()
    (folder / "metrics.jsonl").write_text("{}\n")
    before = checkpoint_hash(folder)
    load_checkpoint(folder)
    save(folder, seed=1, name="second")
    assert checkpoint_hash(folder) != before
    assert "# second\n" in (folder / "README.md").read_text()
    assert (folder / "metrics.jsonl").is_file()
    assert os.listdir(tmp_path) == ["c"]


def test_a_page_written_by_hand_is_kept(tmp_path: Path) -> None:
    save(tmp_path / "c")
    (tmp_path / "c" / "README.md").write_text("# Mine\n")
    save(tmp_path / "c", seed=1)
    assert (tmp_path / "c" / "README.md").read_text() == "# Mine\n"


def test_other_files_than_card_and_weights_do_not_count(tmp_path: Path) -> None:
    save(tmp_path / "c")
    before = checkpoint_hash(tmp_path / "c")
    (tmp_path / "c" / "config.json").write_text("damaged")
    (tmp_path / "c" / "README.md").unlink()
    assert checkpoint_hash(tmp_path / "c") == before


def test_hugging_face_reads_the_model_card(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    save(tmp_path / "c")
    card = hub.ModelCard.load(tmp_path / "c" / "README.md")
    assert card.data.library_name == "robustbench_lite"
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.tags == ["adversarial-robustness", "pgd_at", "small_cnn", "digits"]


def test_hugging_face_loads_the_network(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

    class Loaded(SmallCnn, hub.PyTorchModelHubMixin):  # type: ignore[name-defined, misc]
        pass

    model = save(tmp_path / "c")
    loaded = Loaded.from_pretrained(str(tmp_path / "c")).eval()
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(x), model(x))
