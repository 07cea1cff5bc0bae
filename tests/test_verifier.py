"""The verifier: what is broken, what is not allowed, what is an error."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from robustbench_lite.attacks.threat_model import ThreatModel, parse_eps
from robustbench_lite.core.errors import InputError
from robustbench_lite.verifier import verify

LINF = ThreatModel("Linf", parse_eps("0.1"))


class Threshold(nn.Module):
    """Class 1 where the mean pixel is above 0.55."""

    def forward(self, x):
        score = x.flatten(1).mean(dim=1, keepdim=True) - 0.55
        return torch.cat([torch.zeros_like(score), score], dim=1)


def judge(delta, threat=LINF, model=None, x_value=0.5, **options):
    x = torch.full((1, 1, 2, 2), x_value)
    x_adv = x + torch.as_tensor(delta, dtype=torch.float32)
    y = torch.zeros(1, dtype=torch.long)
    return verify(model or Threshold(), x, x_adv, y, threat=threat, batch_size=8, **options)


def test_a_misclassified_image_inside_the_ball_is_broken():
    verdict = judge(0.09)
    assert verdict.broken.item()
    assert verdict.prediction.item() == 1
    assert verdict.linf.item() == pytest.approx(0.09, abs=1e-6)
    assert verdict.l2.item() == pytest.approx(0.18, abs=1e-6)
    assert verdict.linf.dtype == torch.float64


@pytest.mark.parametrize("delta", [0.04, 0.1001, 0.3])
def test_a_right_prediction_or_a_step_outside_the_ball_is_not(delta):
    assert not judge(delta).broken.item()


def test_the_ball_has_a_tolerance_of_a_millionth_and_no_more():
    assert judge(0.1 + 5e-7).broken.item()
    assert not judge(0.1 + 3e-6).broken.item()


def test_l2_counts_all_pixels():
    assert judge(0.06, threat=ThreatModel("L2", parse_eps("0.125"))).broken.item()
    assert not judge(0.06, threat=ThreatModel("L2", parse_eps("0.115"))).broken.item()


def test_an_image_outside_the_box_is_not_allowed():
    # mean 0.975 + 0.05 > 1: misclassified, inside the ball, but no image
    assert not judge(0.05, x_value=0.975).broken.item()


def test_a_candidate_with_nan_pixels_breaks_nothing_and_is_no_error():
    delta = torch.tensor([0.09, torch.nan, 0.09, 0.09]).view(1, 1, 2, 2)
    assert not judge(delta).broken.item()


def test_nan_logits_are_an_error_never_robust():
    class Nan(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 3), torch.nan)

    with pytest.raises(InputError, match="NaN or infinite logits in rows 0 to 0"):
        judge(0.0, model=Nan())


def test_the_verdict_is_in_eval_mode_and_the_mode_comes_back():
    model = nn.Sequential(nn.Dropout(0.9), Threshold()).train()
    verdicts = {judge(0.09, model=model).broken.item() for _ in range(10)}
    assert verdicts == {True}
    assert model.training


def test_randomised_models_are_judged_by_majority():
    class Coin(nn.Module):
        """Wrong in the share of passes that `rate` says, in turn."""

        def __init__(self, wrong):
            super().__init__()
            self.wrong, self.calls = wrong, 0

        def forward(self, x):
            self.calls += 1
            flip = 1.0 if self.calls % 5 < self.wrong else -1.0
            return torch.tensor([[0.0, flip]]).expand(len(x), 2)

    assert judge(0.01, model=Coin(3), passes=5).broken.item()
    assert not judge(0.01, model=Coin(2), passes=5).broken.item()


def test_half_of_the_passes_is_no_majority():
    class Alternating(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return torch.tensor([[0.0, (-1.0) ** self.calls]]).expand(len(x), 2)

    assert not judge(0.01, model=Alternating(), passes=4).broken.item()


def test_autocast_around_the_verifier_changes_nothing():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    x = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    arguments = (model, x, x, torch.zeros(8, dtype=torch.long))
    plain = verify(*arguments, threat=LINF, batch_size=8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
        inside = verify(*arguments, threat=LINF, batch_size=8)
    assert torch.equal(plain.loss, inside.loss)


def test_half_precision_images_are_refused():
    x = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    with pytest.raises(TypeError, match="float32"):
        verify(Threshold(), x, x, torch.zeros(1).long(), threat=LINF, batch_size=1)


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch before 2.9")
@pytest.mark.parametrize(
    "code",
    [
        "pass",
        "torch.set_float32_matmul_precision('medium')",
        "torch.set_float32_matmul_precision('high')",
        "torch.backends.cuda.matmul.allow_tf32 = True",
        "torch.backends.cudnn.allow_tf32 = False",
        "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
        "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'",
        "torch.backends.fp32_precision = 'tf32'",
    ],
)
def test_float32_is_plain_whichever_way_it_was_set_and_put_back_after(code):
    program = f"""
import torch
from robustbench_lite.core.numerics import _PLACES, plain_numerics

def state():
    said = [place.fp32_precision for place in _PLACES]
    for ask in (torch.get_float32_matmul_precision, lambda: torch.backends.cudnn.allow_tf32):
        try:
            said.append(ask())
        except RuntimeError:
            said.append("torch does not say")
    return said

{code}
before = state()
with plain_numerics():
    assert {{place.fp32_precision for place in _PLACES}} == {{"ieee"}}
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
assert len(_PLACES) == 9
told = [(a, b) for a, b in zip(before, state()) if a != "torch does not say"]
assert all(a == b for a, b in told), told
"""
    subprocess.run([sys.executable, "-c", program], check=True)
