"""Protocols and radii: exact, named, versioned; wrong files say what is wrong."""

from fractions import Fraction

import pytest

from robustbench_lite.attacks.protocol import load_protocol, protocol_files
from robustbench_lite.attacks.threat_model import ThreatModel, format_eps, parse_eps
from robustbench_lite.core.errors import InputError


@pytest.mark.parametrize(
    ("text", "value", "shown"),
    [
        ("8/255", Fraction(8, 255), "8/255"),
        ("0.031", Fraction(31, 1000), "0.031"),
        (0.1, Fraction(1, 10), "0.1"),
        (8 / 255, Fraction(8, 255), "8/255"),
        (0.5 / 255, Fraction(1, 510), "1/510"),
        (0.0313725, Fraction(313725, 10**7), "12549/400000"),
        ("51/255", Fraction(1, 5), "0.2"),
        ("1/3", Fraction(1, 3), "85/255"),
        ("1/7", Fraction(1, 7), "1/7"),
        (2, Fraction(2), "2"),
        ("128/255", Fraction(128, 255), "128/255"),
    ],
)
def test_radii_are_exact_and_have_one_spelling(text, value, shown):
    assert parse_eps(text) == value
    assert format_eps(value) == shown
    assert parse_eps(shown) == value


@pytest.mark.parametrize("text", ["eight", "8/0", "", "-1/255", "8/255/2"])
def test_what_is_no_radius_is_refused(text):
    with pytest.raises(InputError, match="eps="):
        parse_eps(text)


def test_eps_in_0_255_units_is_refused_with_a_hint():
    with pytest.raises(InputError, match=r"eps=8 is larger than 1.*did you mean 8/255\?"):
        ThreatModel("Linf", parse_eps("8"))
    # An L2 radius may be, up to the diameter of the images: known when they are.
    threat = ThreatModel("L2", parse_eps("8"))
    threat.check_diameter(64)
    with pytest.raises(InputError, match=r"diameter 7.94 of these images.*8/255\?"):
        threat.check_diameter(63)
    with pytest.raises(InputError, match="larger than any image"):
        parse_eps("1e400")


def test_0031_and_8_255_have_different_ids():
    ids = {load_protocol("linf_standard", eps=eps).id for eps in ("8/255", "0.031")}
    assert ids == {"linf_standard@8/255.v2", "linf_standard@0.031.v2"}


@pytest.mark.parametrize("name", sorted(protocol_files()))
def test_every_shipped_protocol_is_complete(name):
    protocol = load_protocol(name, eps="8/255")
    assert protocol.name == name
    for spec in protocol.attacks:
        spec.check(protocol.threat, num_classes=10)


def test_alpha_follows_eps():
    spec = load_protocol("linf_quick", eps="8/255").attacks[0]
    assert spec.params["alpha"] == pytest.approx(2 / 255, abs=1e-15)


def test_no_radius_and_unknown_name_are_one_line_each():
    with pytest.raises(InputError, match="give --eps"):
        load_protocol("linf_standard", eps=None)
    with pytest.raises(InputError, match="did you mean linf_standard"):
        load_protocol("linf_standart", eps="0.1")
    with pytest.raises(InputError, match="does not exist"):
        load_protocol("nowhere.toml", eps="0.1")


GOOD = """
id = "mine"
version = 2
norm = "Linf"
engine = "ours"
summary = "one"
passes = 1
eps = "0.2"
[[attacks]]
name = "f"
title = "FGSM"
attack = "fgsm"
"""


def test_a_file_may_name_its_own_eps(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    assert load_protocol(str(path), eps=None).id == "mine@0.2.v2"
    assert load_protocol(str(path), eps="0.1").id == "mine@0.1.v2"


PGD = """attack = "pgd"
loss = "ce"
steps = 3
alpha = 0.1
restarts = 1
start = "none"
keep = "last"
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version = 2", "", "mine.toml: missing key version"),
        ("passes = 1", "passes = 1\nspeed = 3", "unknown key speed"),
        ('engine = "ours"', 'engine = "fast"', "engine is 'fast'; need one of ours, reference"),
        ('norm = "Linf"', 'norm = "L7"', "norm is 'L7'; need one of Linf, L2, L1"),
        ("passes = 1", "passes = 0", "passes is 0; need an integer of at least 1"),
        ('name = "f"', 'name = "clean"', "none 'clean'"),
        ('title = "FGSM"', "", r"missing key attacks\[0\].title"),
        ("version = 2", "version = ", "no valid TOML"),
        ("version = 2", 'version = "x"', "version is 'x'; need an integer"),
        ("version = 2", "version = 0", "version is 0; need an integer of at least 1"),
        ('name = "f"', 'name = "../../evil"', "evil'; need letters, digits and _"),
        ('id = "mine"', 'id = "a/b"', "id is 'a/b'; need letters, digits and _"),
        ("[[attacks]]", "[attacks]", "attacks is .*; need a list"),
        ('attack = "fgsm"', 'attack = "fgsm"\nalpha = 1\nalpha_over_eps = 1', "both alpha and"),
    ],
)
def test_wrong_protocol_files_say_what_is_wrong(tmp_path, old, new, message):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(InputError, match=message):
        load_protocol(str(path), eps=None)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('attack = "fgsm"', 'attack = "fgms"', "did you mean fgsm"),
        (
            'attack = "fgsm"',
            'attack = "pgd"\nloss = "ce"',
            "'f': missing key alpha",
        ),
        (
            'attack = "fgsm"',
            'attack = "fgsm"\nsteps = 3',
            "'f': unknown key steps; known: none",
        ),
        ('attack = "fgsm"', 'attack = "fgsm"\neps = 0.3\nnorm = "L2"', "may not set eps, norm"),
        ('attack = "fgsm"', PGD + 'mode = "train"', "may not set mode"),
        ('attack = "fgsm"', PGD.replace('"ce"', '"hinge"'), "'f': unknown loss 'hinge'"),
        ('attack = "fgsm"', PGD.replace('"ce"', '"margin"'), "needs kappa"),
        ('attack = "fgsm"', PGD.replace('"last"', '"any"'), "keep is 'any'; need one of"),
        (
            'attack = "fgsm"',
            PGD.replace("steps = 3", 'steps = "3"'),
            "steps is '3'; need an integer",
        ),
        ('attack = "fgsm"', 'attack = "torchattacks:PDG"', "did you mean PGD"),
        ('attack = "fgsm"', 'attack = "torchattacks:PGD"\nstepz = 3', "no argument stepz"),
        (
            'attack = "fgsm"',
            'attack = "reference:autoattack"\nversion = "standard"',
            "at least 4 classes .* has 3",
        ),
    ],
)
def test_wrong_attack_parameters_are_named(tmp_path, old, new, message):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace(old, new))

    def read():
        protocol = load_protocol(str(path), eps=None)  # says all but what depends on the classes
        protocol.attacks[0].check(protocol.threat, num_classes=3)

    with pytest.raises(InputError, match=message):
        read()


def test_the_hash_follows_parameters_not_titles(tmp_path):
    path = tmp_path / "mine.toml"
    hashes = []
    for old, new in (("", ""), ('title = "FGSM"', 'title = "x"'), ('name = "f"', 'name = "g"')):
        path.write_text(GOOD.replace(old, new))
        hashes.append(load_protocol(str(path), eps=None).hash)
    assert hashes[0] == hashes[1] != hashes[2]
