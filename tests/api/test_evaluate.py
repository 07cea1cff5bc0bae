"""`rbl.evaluate`: every kind of data and network, the report, folders, the command line's row."""

import gc

import numpy as np
import pytest
import torch
from conftest import small_net
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import robustbench_lite as rbl
from robustbench_lite.attacks.protocol import load_protocol
from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets import Split
from robustbench_lite.evaluation.evaluate import evaluate as evaluate_split
from robustbench_lite.evaluation.settings import Settings

EPS = 8 / 255
QUICK = rbl.PGD(steps=2)


@pytest.fixture
def pair(images):
    """Images and labels of which the network of the `net` fixture has most right."""
    x, y = images
    with torch.no_grad():
        right = small_net().eval()(x).argmax(1)
    return x, torch.where(torch.arange(7) < 5, right, y)


@pytest.fixture(scope="module")
def report():
    model = small_net().eval()
    x = torch.rand(12, 2, 6, 5, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        y = model(x).argmax(1)
    y[-1] = (y[-1] + 1) % 5
    return rbl.evaluate(model, (x, y), "linf_quick", eps=EPS), x


def test_the_report_has_accuracies_with_intervals(report):
    found, _ = report
    assert found.clean_accuracy == 11 / 12
    assert found.clean_accuracy.correct == 11
    assert found.robust_accuracy.n == 12
    low, high = found.robust_accuracy.interval
    assert low <= found.robust_accuracy <= high
    assert set(found.attacks) == {"pgd20_ce", "cwinf20_k50"}
    assert found.robust_accuracy == min(found.attacks.values())
    assert found["robust_accuracy"]["value"] == found.robust_accuracy
    assert found.result.protocol.id == "linf_quick@8/255.v1"
    assert found.model_output == ""


def test_the_report_shows_its_row(report):
    found, _ = report
    for text in (repr(found), found._repr_html_()):
        assert "linf_quick@8/255.v1" in text
        assert f"{100 * found.robust_accuracy:.2f}" in text
        assert "Sequential" in text
    frame = found.to_frame()
    assert len(frame) == 1
    assert len(found.examples) == 12 + 2 * 11
    assert [text.get_text() for text in found.plot().axes[0].get_xticklabels()] == [
        *("clean", "PGD-20", "CW-Linf-20", "worst case")
    ]


def test_the_report_has_the_images_that_were_judged(report):
    found, x = report
    x_adv = found.adversarial("pgd20_ce")
    assert x_adv.shape == x.shape
    assert (x_adv - x).abs().amax() <= EPS + 1e-6
    rows = found.examples
    rows = rows[rows["attack"] == "pgd20_ce"]
    model = small_net().eval()
    with torch.no_grad():
        wrong = model(x_adv[rows["example_id"].tolist()]).argmax(1).numpy() != rows["label"]
    assert (wrong == rows["broken"]).all()
    assert torch.equal(x_adv[11], x[11])  # wrong without an attack
    with pytest.raises(InputError, match="did you mean pgd20_ce"):
        found.adversarial("pgd20")


def test_images_of_several_parts_come_back_in_their_places(net, pair):
    whole = rbl.evaluate(net, pair, QUICK, eps=EPS)
    parts = rbl.evaluate(net, pair, QUICK, eps=EPS, settings=Settings(chunk_size=3))
    (name,) = whole.attacks
    assert torch.equal(parts.adversarial(name), whole.adversarial(name))


def test_a_small_evidence_gives_the_broken_images(pair):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(60, 5))
    pair = pair[0], net(pair[0]).argmax(1)
    small = rbl.evaluate(net, pair, QUICK, eps=0.2, evidence="int8").adversarial("pgd2_ce")
    whole = rbl.evaluate(net, pair, QUICK, eps=0.2)
    rows = whole.examples
    broken = rows[(rows["attack"] == "pgd2_ce") & rows["broken"]]["example_id"].tolist()
    assert len(broken)
    assert (net(small[broken]).argmax(1) != pair[1][broken]).all()
    assert whole.adversarial("pgd2_ce").shape == small.shape
    with pytest.raises(InputError, match="without adversarial images"):
        rbl.evaluate(net, pair, QUICK, eps=0.2, evidence="none").adversarial("pgd2_ce")


def test_the_temporary_folder_goes_away_with_the_report(net, pair, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = rbl.evaluate(net, pair, QUICK, eps=EPS)
    assert len(list(tmp_path.iterdir())) == 1
    del found
    gc.collect()
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError):
        rbl.evaluate(nn.Flatten(), pair, QUICK, eps=0.3, seed=-1)
    assert not list(tmp_path.iterdir())


class Rows(torch.utils.data.Dataset):
    def __init__(self, x, y, picture):
        self.x, self.y, self.picture = x, y, picture

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        image, label = self.x[row], int(self.y[row])
        if self.picture:
            array = (image * 255).round().byte().permute(1, 2, 0).numpy()
            return Image.fromarray(np.concatenate([array, array[..., :1]], axis=2)), label
        return image, label


def test_every_kind_of_data_is_the_same_data(net, pair):
    x, y = pair
    kinds = {
        "tensors": (x, y),
        "arrays": (x.numpy(), y.numpy()),
        "doubles": [x.double(), y],
        "dataset": TensorDataset(x, y),
        "rows": Rows(x, y, picture=False),
        "loader": DataLoader(TensorDataset(x, y), batch_size=3),
        "split": Split("in_memory", "test", x, y, 5),
        "batches": [(x[:4], y[:4]), (x[4:], y[4:])],
    }
    found = {kind: rbl.evaluate(net, data, QUICK, eps=EPS).result for kind, data in kinds.items()}
    assert len({result.dataset.hash for result in found.values()}) == 1, found
    assert len({result.outcomes.robust for result in found.values()}) == 1
    assert {result.n_examples for result in found.values()} == {7}
    first = rbl.evaluate(net, kinds["loader"], QUICK, eps=EPS, n=3)
    assert first.robust_accuracy.n == 3


def test_no_more_batches_are_taken_than_asked_for(net, pair):
    x, y = pair
    left = iter([(x[:2], y[:2]), (x[2:4], y[2:4]), (x[4:6], y[4:6])])
    assert rbl.evaluate(net, left, QUICK, eps=EPS, n=4).robust_accuracy.n == 4
    assert torch.equal(next(left, (None,))[0], x[4:6])


def test_pictures_are_hashed_as_bytes(pair):
    x, y = pair
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 5, 5))
    result = rbl.evaluate(model, Rows(x, y, picture=True), QUICK, eps=EPS, dataset="mine").result
    whole = (torch.cat([x, x[:, :1]], 1) * 255).round().byte()
    assert result.dataset.hash == Split("mine", "test", whole, y, 5).content_hash
    assert result.dataset.name == "mine"


def test_sources_by_name_take_their_size_and_classes(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTBENCH_LITE_CACHE", str(tmp_path / "cache"))
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 5, 4))
    generator = np.random.default_rng(0)
    for name in ("rose", "tulip"):
        (tmp_path / "flowers" / name).mkdir(parents=True)
        for row in range(3):
            array = generator.integers(0, 256, (9 + row, 8, 3)).astype(np.uint8)
            Image.fromarray(array).save(tmp_path / "flowers" / name / f"{row}.png")
    (tmp_path / "classes.txt").write_text("daisy\nrose\npoppy\ntulip\n")
    given = {"image_size": "6x5", "classes": tmp_path / "classes.txt"}
    report = rbl.evaluate(model, f"folder:{tmp_path / 'flowers'}", QUICK, eps=EPS, **given)
    assert report.examples["label"].unique().tolist() == [1, 3]
    assert report.result.dataset.name == "folder:flowers"
    np.savez(tmp_path / "own.npz", x=generator.random((3, 3, 6, 5)), y=np.zeros(3, int))
    report = rbl.evaluate(model, f"npz:{tmp_path / 'own.npz'}", QUICK, eps=EPS, classes=4)
    assert report.robust_accuracy.n == 3


@pytest.mark.parametrize("given", [{"image_size": 8}, {"classes": 5}, {"data_dir": "."}])
def test_options_of_named_data_are_refused_with_other_data(net, pair, given):
    with pytest.raises(InputError, match="are for data by name.* images given as tuple"):
        rbl.evaluate(net, pair, QUICK, eps=EPS, **given)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (7, r"data is int; give \(images, labels\), a Dataset"),
        ("cifar", "cifar10"),
        ([torch.zeros(2, 1, 4, 4)] * 3, "wrap it so that it gives pairs"),
        ([], "holds no images"),
        ([(torch.zeros(1, 4, 4).byte(), 0), (torch.zeros(1, 4, 4), 0)] * 2, "give all of one type"),
        ((torch.rand(2, 2, 6, 5).to_sparse(), torch.zeros(2).long()), "give a dense tensor"),
        ((torch.rand(2, 2, 6, 5, device="meta"), torch.zeros(2).long()), "meta device; give a"),
        ((torch.full((2, 2, 6, 5), 1 + 1e-7), torch.zeros(2).long()), r"1.0000001\].*clamp them"),
        ({"x": torch.zeros(2, 1, 4, 4)}, "data: a dict is no pair"),
        ([(torch.zeros(1, 4, 4), 0), (torch.zeros(1, 4, 5), 0), (torch.zeros(1, 4, 4), 0)], "size"),
        ((torch.rand(4, 2, 6, 5) * 255, torch.zeros(4).long()), "divide by 255"),
        ((torch.rand(4, 2, 6, 5), torch.full((4,), 5)), "row 0 has label 5, but there are 5"),
    ],
)
def test_what_is_no_data_is_refused_in_one_line(net, data, message):
    with pytest.raises(InputError, match=message) as refusal:
        rbl.evaluate(net, data, QUICK, eps=EPS)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"protocol": "linf_standart", "eps": EPS}, "did you mean linf_standard"),
        ({"protocol": "linf_quick"}, "names no radius"),
        ({"protocol": QUICK}, "needs a radius"),
        ({"protocol": 3, "eps": EPS}, "give a name such as 'linf_standard'"),
        ({"protocol": load_protocol("linf_quick", eps="0.1"), "eps": EPS}, "is not that of the"),
        ({"protocol": "linf_quick", "eps": 8}, r"did you mean 8/255\?"),
        ({"protocol": "linf_quick", "eps": EPS, "device": "tpu"}, "device 'tpu' is unknown"),
        ({"protocol": QUICK, "eps": EPS, "n": 0}, "n=0 must be at least 1"),
        ({"protocol": QUICK, "eps": EPS, "n": 1.5}, "n=1.5 is a float"),
        ({"protocol": QUICK, "eps": EPS, "seed": True}, "seed=True is a bool"),
        ({"protocol": QUICK, "eps": EPS, "seed": "a"}, "seed='a' is a str"),
        ({"protocol": QUICK, "eps": EPS, "batch_size": "4"}, "batch_size='4' is a str"),
    ],
)
def test_wrong_terms_are_refused_in_one_line(net, pair, given, message):
    with pytest.raises(InputError, match=message):
        rbl.evaluate(net, pair, **given)


def test_an_out_that_is_a_file_is_one_line(net, pair, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file is a file and no result folder"):
        rbl.evaluate(net, pair, QUICK, eps=EPS, out=tmp_path / "file")


class Scaled(nn.Module):
    def __init__(self, network, scale):
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, x):
        return self.network(x) * self.scale


def test_a_network_with_another_attribute_does_not_take_over_a_result(net, pair, tmp_path):
    kept = rbl.evaluate(Scaled(net, 1.0), pair, QUICK, eps=EPS, out=tmp_path)
    again = rbl.evaluate(Scaled(net, 1.0), pair, QUICK, eps=EPS, out=tmp_path)
    assert again.clean_accuracy == kept.clean_accuracy == 5 / 7
    with pytest.raises(InputError, match="holds another evaluation: .*hash"):
        rbl.evaluate(Scaled(net, -1.0), pair, QUICK, eps=EPS, out=tmp_path)


def test_a_folder_is_resumed_and_is_what_the_command_line_makes(net, pair, tmp_path):
    out = tmp_path / "result"
    first = rbl.evaluate(net, pair, "linf_quick", eps=EPS, out=out, name="mine")
    part = out / "parts" / "pgd20_ce" / "00000.parquet"
    content, result = part.read_bytes(), (out / "result.json").read_bytes()
    part.unlink()
    again = rbl.evaluate(net, pair, "linf_quick", eps="8/255", out=out, name="mine")
    assert part.read_bytes() == content
    assert (out / "result.json").read_bytes() == result
    assert again.robust_accuracy == first.robust_accuracy
    with pytest.raises(InputError, match="holds another evaluation"):
        rbl.evaluate(net, pair, "linf_quick", eps="4/255", out=out, name="mine")
    net[5].weight.data[0, 0] += 1
    with pytest.raises(InputError, match="holds another evaluation: .*hash"):
        rbl.evaluate(net, pair, "linf_quick", eps=EPS, out=out, name="mine")


def test_what_the_evaluation_itself_takes_is_taken_too(net, pair, tmp_path):
    from robustbench_lite.api.network import identified, ready

    data = Split("mine", "test", *pair, 5)
    protocol = load_protocol("linf_quick", eps="8/255")
    with ready(net) as (source, device):
        source = identified(source)
        terms = {"n": None, "seed": 0, "settings": rbl.Settings(), "device": device}
        plain = evaluate_split(source, data, protocol, out=tmp_path / "a", **terms)
        ours = rbl.evaluate(source, data, protocol, out=tmp_path / "b", **terms)
    assert ours["outcomes"] == plain["outcomes"]
    assert ours["model"] == plain["model"]


def test_a_checkpoint_and_a_named_data_set(checkpoint):
    found = rbl.evaluate(str(checkpoint), "digits", QUICK, eps="0.1", n=8, name="of digits")
    assert found.result.dataset.name == "digits"
    assert found.result.name == "of digits"
    assert found.result.model.kind == "checkpoint"


class Answers(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = small_net()

    def forward(self, x):
        return {"logits": self.net(x)}


def test_the_result_says_where_logits_were_found(net, pair):
    found = rbl.evaluate(Answers(), pair, QUICK, eps=EPS)
    assert found.model_output == "'logits' of a dict"
    assert "logits are &#x27;logits&#x27; of a dict" in found._repr_html_()
    assert found.robust_accuracy == rbl.evaluate(net, pair, QUICK, eps=EPS).robust_accuracy


def test_a_sigmoid_column_is_refused_with_the_cure(pair):
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 1), nn.Sigmoid())
    with pytest.raises(InputError, match=r"return torch.stack\(\[torch.zeros_like\(z\), z\], 1\)"):
        rbl.evaluate(model, (pair[0], pair[1] % 2), QUICK, eps=EPS)


@pytest.mark.parametrize("rows", [1, 7])
def test_nothing_right_is_an_accuracy_of_zero(net, pair, rows):
    net.eval()
    x = pair[0][:rows]
    found = rbl.evaluate(net, (x, (net(x).argmax(1) + 1) % 5), "linf_standard", eps=EPS)
    assert found.robust_accuracy == found.clean_accuracy == 0.0
    assert torch.equal(found.adversarial("aa_standard"), x)


def test_modes_come_back_and_functions_have_an_identity(net, pair):
    net.train()
    rbl.evaluate(net, pair, QUICK, eps=EPS)
    assert all(module.training for module in net.modules())
    shift = 0.0

    def function(x):
        return net(x - shift)

    first = rbl.evaluate(function, pair, QUICK, eps=EPS).result
    assert first.name == "function"
    again = rbl.evaluate(function, pair, QUICK, eps=EPS).result
    shift = 0.5
    other = rbl.evaluate(function, pair, QUICK, eps=EPS).result
    assert first.model.hash == again.model.hash != other.model.hash
    net[5].weight.data[0, 0] += 1
    assert rbl.evaluate(function, pair, QUICK, eps=EPS).result.model.hash != other.model.hash


def test_gradients_off_and_autocast_change_nothing(net, pair):
    expected = rbl.evaluate(net, pair, QUICK, eps=EPS).result.outcomes
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert rbl.evaluate(net, pair, QUICK, eps=EPS).result.outcomes == expected
