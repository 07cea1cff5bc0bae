"""Submissions: what is accepted, and each kind of bad one refused, with what to fix."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from submission_cases import (
    CODE,
    EXAMPLES,
    HERE,
    LIMITS,
    edit,
    from_checkpoint,
    seal,
    with_code,
)

from robustbench_lite.cli import main
from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets import load_split
from robustbench_lite.submission import isolation
from robustbench_lite.submission.findings import Finding, as_records, from_records, render, verdict
from robustbench_lite.submission.isolation import Limits
from robustbench_lite.submission.manifest import read_manifest
from robustbench_lite.submission.review import check, inspect_network, quick_protocol
from robustbench_lite.submission.template import new_submission


@pytest.fixture
def good(tmp_path, checkpoint):
    """A submission of the test checkpoint with modest claims."""
    return from_checkpoint(tmp_path / "mine", checkpoint, clean=97.5, robust=5.0)


def findings_of(folder, *, allow_code=False, limits=LIMITS, examples=16):
    return check(folder, HERE, allow_code=allow_code, limits=limits, examples=examples)


def errors(folder, **options):
    found = findings_of(folder, **options)
    assert verdict(found) == "refused", render(found)
    return [finding.line() for finding in found if finding.level == "error"]


def clean_percent(folder):
    """What a check says of the clean accuracy."""
    (line,) = [f.what for f in findings_of(folder) if f.what.startswith("clean accuracy")]
    return float(line.split()[2])


def test_a_complete_submission_is_accepted(good):
    edit(good, "clean_accuracy", clean_percent(good))
    found = findings_of(good)
    assert verdict(found) == "accepted", render(found)
    told = render(found)
    for part in ("sha256 as stated", "no flag of 15, 16 images", "a quick attack leaves"):
        assert part in told


def test_a_template_names_everything_that_is_left_to_do(tmp_path):
    new_submission(tmp_path / "mine", "mine", checkpoint=None)
    lines = errors(tmp_path / "mine")
    for key in ("authors", "licence", "training.defense", "network.sha256", "threat.eps"):
        assert any(key in line and "it must be" in line for line in lines), (key, lines)
    assert any("no model.safetensors" in line for line in lines)
    assert any("README.md still says TODO" in line for line in lines)


def test_a_template_does_not_overwrite(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="is there already"):
        new_submission(tmp_path / "mine", "mine", checkpoint=None)


def test_a_template_takes_no_name_that_a_check_refuses(tmp_path):
    with pytest.raises(InputError, match="--out says where"):
        new_submission(tmp_path / "mine", "my def", checkpoint=None)


def nan_weights(folder):
    tensors = load_file(folder / "model.safetensors")
    name = sorted(tensors)[0]
    tensors[name][..., 0] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    seal(folder)


def other_shape(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["head.bias"] = torch.zeros(7)
    save_file(tensors, folder / "model.safetensors")
    seal(folder)


def extra_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"more": torch.zeros(1)}, folder / "model.safetensors")
    seal(folder)


def no_safetensors(folder):
    (folder / "model.safetensors").write_bytes(b"not tensors at all")
    seal(folder)


def link(folder):
    os.rename(folder / "model.safetensors", folder.parent / "elsewhere")
    (folder / "model.safetensors").symlink_to(folder.parent / "elsewhere")


def append(folder, text):
    with (folder / "submission.toml").open("a") as file:
        file.write(text)


# A spoiler, and what the refusal must say: what is wrong, and what to do.
BAD = {
    "missing key": (lambda f: edit(f, "licence", None), "licence is missing: add it"),
    "unknown key": (lambda f: append(f, "\nclean_acuracy = 1\n"), "rename or remove it"),
    "no toml": (lambda f: append(f, "\n= =\n"), "no readable TOML"),
    "no manifest": (lambda f: (f / "submission.toml").unlink(), "writes one to fill in"),
    "bad name": (lambda f: edit(f, "name", '"../up"'), "up to 64 letters"),
    "number as text": (lambda f: edit(f, "clean_accuracy", '"98"'), "percent, from 0 to 100"),
    "fraction over 100": (lambda f: edit(f, "robust_accuracy", 980), "percent, from 0 to 100"),
    "truth as number": (lambda f: edit(f, "extra_data", 0), "true or false"),
    "script as link": (lambda f: edit(f, "url", '"javascript:alert(1)"'), "an http(s) address"),
    "robust above clean": (lambda f: edit(f, "robust_accuracy", 99), "above the clean one"),
    "unknown protocol": (lambda f: edit(f, "protocol", '"linf_standart"'), "linf_standard"),
    "own protocol": (lambda f: edit(f, "protocol", '"mine.toml"'), "rbl list protocols"),
    "bad eps": (lambda f: edit(f, "eps", '"8//255"'), "such as"),
    "endless eps": (lambda f: edit(f, "eps", '"1e99999999"'), "above 0"),
    "no eps": (lambda f: edit(f, "eps", '"0.00"'), "above 0"),
    "huge number": (lambda f: edit(f, "clean_accuracy", "1" + "0" * 400), "percent, from 0"),
    "huge mean": (lambda f: edit(f, "mean", "[1" + "0" * 400 + "]"), "one number per channel"),
    "control characters": (
        lambda f: edit(f, "defense", '"a\\u001b[2Jb"'),
        "in a few words",
    ),
    "turned writing": (lambda f: edit(f, "defense", '"a\\u202eb"'), "in a few words"),
    "long defense": (lambda f: edit(f, "defense", f'"{"x" * 201}"'), "in a few words"),
    "other schema": (lambda f: edit(f, "schema_version", "true"), "write 1"),
    "unknown data": (lambda f: edit(f, "dataset", '"cifar"'), "cifar10"),
    "other hash": (lambda f: edit(f, "sha256", f'"{"0" * 64}"'), "another sha256"),
    "pickle": (lambda f: (f / "model.pt").write_bytes(b""), "safetensors.torch.save_file"),
    "foreign file": (lambda f: (f / "run.sh").write_text("x"), "does not belong"),
    "link": (link, "as plain files"),
    "long text": (lambda f: (f / "README.md").write_text("x" * 2**21), "larger than 1 MiB"),
    "no safetensors": (no_safetensors, "is no safetensors file"),
    "NaN weights": (nan_weights, "NaN or infinite weights"),
    "other shape": (other_shape, "head.bias is (7,)"),
    "extra tensor": (extra_tensor, "unexpected more"),
    "unknown architecture": (lambda f: edit(f, "architecture", '"small_cnnn"'), "small_cnn"),
    "other architecture": (
        lambda f: edit(f, "architecture", '"trades_small_cnn"'),
        "the network cannot be built",
    ),
    "code that nothing uses": (
        lambda f: (f / "model.py").write_text("x = 1"),
        "nothing uses it: remove it",
    ),
    "factory without code": (
        lambda f: edit(f, "architecture", '"small_cnn"\nfactory = "build"'),
        "add model.py",
    ),
    "too many examples": (lambda f: edit(f, "examples", 10_000), "the test split has 364"),
    "clean claim": (lambda f: edit(f, "clean_accuracy", 100.0), "claim what these weights do"),
    "robust claim": (lambda f: edit(f, "robust_accuracy", 97.0), "before claiming"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_submissions_are_refused_with_what_to_fix(kind, good):
    spoil, said = BAD[kind]
    edit(good, "clean_accuracy", 97.5)
    spoil(good)
    lines = errors(good)
    assert any(said in line for line in lines), lines
    assert all("\n" not in line for line in lines)


def test_other_weights_of_the_same_shapes_do_not_keep_the_claim(good):
    edit(good, "clean_accuracy", clean_percent(good))
    tensors = load_file(good / "model.safetensors")
    save_file({name: -each for name, each in tensors.items()}, good / "model.safetensors")
    seal(good)
    assert any("claim what these weights do" in line for line in errors(good))


# Submitted code -----------------------------------------------------------------------------


def test_code_is_run_only_when_allowed_sees_no_secrets_and_is_accepted(tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    ran = tmp_path / "ran"
    code = CODE + (
        f"\nimport os\nopen({str(ran)!r}, 'w')\n"
        "assert 'GITHUB_TOKEN' not in os.environ, 'token seen'\n"
    )
    folder = with_code(tmp_path / "mine", code)
    assert any("read it, then add --allow-code" in line for line in errors(folder))
    assert not ran.exists()
    found = findings_of(folder, allow_code=True)
    assert ran.exists()
    assert verdict(found) == "accepted", render(found)


HOSTILE = {
    "network": (
        CODE + "\nimport socket, urllib.request\n"
        "try: urllib.request.urlopen('http://127.0.0.1:9')\n"
        "except PermissionError: socket.create_connection(('127.0.0.1', 9))\n",
        "submitted code has no network (socket.",
    ),
    "ends the process": (CODE + "\nimport os\nos._exit(0)\n", "gave no answer"),
    "crash": (CODE + "\nimport os\nos.abort()\n", "ended with code -6"),
}
BAD_CODE = {
    "does not compile": ("def build(:\n", "SyntaxError"),
    "raises": ("def build():\n    raise ValueError('no file')\n", "ValueError: no file"),
    "no module": ("def build():\n    return 3\n", "it must return an nn.Module"),
    "no factory": (CODE.replace("def build", "def make"), "no 'build'"),
    "other classes": (CODE.replace("64, 10", "64, 9"), "head.bias is (10,)"),
    "probabilities of another shape": (
        CODE.replace("return self.head(self.flat(x))", "return self.head(self.flat(x))[:, 0]"),
        "it must give floating-point logits",
    ),
    "no gradient": (
        CODE.replace("self.flat(x))", "self.flat(x)).detach()"),
        "carry no gradient",
    ),
    "changes its input": (CODE.replace("self.flat(x)", "self.flat(x.sub_(0.1))"), "in place"),
    "fails on one image": (
        CODE.replace("self.flat(x)", "self.flat(x) if len(x) > 1 else 1 / 0"),
        "ZeroDivisionError",
    ),
    "ends the program on one image": (
        CODE.replace("self.flat(x)", "self.flat(x) if len(x) > 1 else exit(0)"),
        "SystemExit: 0",
    ),
    "fewer classes on one image": (
        CODE.replace("self.flat(x))", "self.flat(x))[:, : 10 - (len(x) == 1)]"),
        "9 classes",
    ),
}


@pytest.mark.parametrize("kind", BAD_CODE)
def test_bad_code_is_refused_with_what_to_fix(kind, tmp_path):
    code, said = BAD_CODE[kind]
    folder = with_code(tmp_path / "mine", code)
    manifest, _ = read_manifest(folder)
    found = inspect_network(folder, manifest, load_split("digits", "test"), HERE, examples=16)
    lines = [finding.line() for finding in found if finding.level == "error"]
    assert any(said in line for line in lines), lines


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_code_is_held_off(kind, tmp_path):
    code, said = HOSTILE[kind]
    (line,) = errors(with_code(tmp_path / "mine", code), allow_code=True)
    assert said in line


def alive(pid):
    """Whether a process still runs; a dead one that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
def test_a_time_limit_ends_submitted_code_and_what_it_started(tmp_path, monkeypatch):
    # The clock stands still until the submitted code has come that far, then the time is over.
    started = tmp_path / "pid"
    clock = SimpleNamespace(monotonic=lambda: 26.0 if started.exists() else 0.0)
    monkeypatch.setattr(isolation, "time", clock)
    code = CODE + (
        "\nimport pathlib, signal, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
        f"pathlib.Path({str(tmp_path / 'new')!r}).write_text(str(child.pid))\n"
        f"pathlib.Path({str(tmp_path / 'new')!r}).rename({str(started)!r})\nsignal.pause()\n"
    )
    folder = with_code(tmp_path / "mine", code)
    (line,) = errors(folder, allow_code=True, limits=Limits(seconds=25, gigabytes=8))
    assert "took longer than 25 seconds" in line
    assert "--time-limit" in line
    assert not alive(started.read_text())


def test_a_memory_limit_ends_submitted_code(tmp_path):
    code = CODE + "\nimport signal\nkept = torch.ones(2**28)\nsignal.pause()\n"  # 1 GiB
    folder = with_code(tmp_path / "mine", code)
    (line,) = errors(folder, allow_code=True, limits=Limits(seconds=900, gigabytes=1))
    assert "--memory-limit" in line


def test_probabilities_are_remarked_upon(tmp_path):
    code = CODE.replace("self.head(self.flat(x))", "self.head(self.flat(x)).softmax(1)")
    folder = with_code(tmp_path / "mine", code, robust=5.0)
    manifest, _ = read_manifest(folder)
    found = inspect_network(folder, manifest, load_split("digits", "test"), HERE, examples=16)
    assert verdict(found) == "accepted with remarks", render(found)
    assert any("flag probabilities" in f.what and "softmax" in f.fix for f in found)


# Parts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["linf_standard", "l2_standard", "aa_standard_l1", "aa_rand"])
def test_every_norm_has_a_quick_look_with_the_same_passes(name):
    from robustbench_lite.attacks.protocol import load_protocol

    full = load_protocol(name, eps="0.5")
    quick = quick_protocol(full)
    assert (quick.threat, quick.passes) == (full.threat, full.passes)
    assert all(spec.params["steps"] == 20 for spec in quick.attacks)


def test_findings_survive_the_way_between_processes():
    findings = [Finding("error", "a", "b"), Finding("ok", "c")]
    assert from_records(as_records(findings)) == findings
    with pytest.raises(InputError):
        from_records([{"level": "fine", "what": "a", "fix": ""}])


def test_a_manifest_is_what_the_file_says(good):
    manifest, _ = read_manifest(good)
    assert (manifest.name, manifest.authors, manifest.examples) == (
        "mine",
        ("A. Author",),
        EXAMPLES,
    )
    assert manifest.protocol.id == "linf_quick@0.15.v1"
    assert manifest.dataset.name == "digits"


def test_the_command_says_the_verdict_by_its_exit_code(good, capsys):
    edit(good, "clean_accuracy", clean_percent(good))
    assert main(["submit", "check", str(good), "--examples", "8", "--threads", "1"]) == 0
    assert capsys.readouterr().out.endswith("verdict: accepted\n")
    edit(good, "eps", '"TODO"')
    assert main(["submit", "check", str(good)]) == 1
    assert "verdict: refused" in capsys.readouterr().out
    assert main(["submit", "check", str(good / "nowhere")]) == 2
    assert "rbl submit new" in capsys.readouterr().err
