"""Networks that return more than logits: what is taken out, what is said of it, what is refused."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from robustbench_lite.checkpoints.user_network import NetworkError, UserNetwork, output_of


@dataclass
class Answer:
    """As the networks of Hugging Face's transformers return it."""

    logits: torch.Tensor
    loss: None = None


class Wrapping(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.layer, self.wrap = nn.Linear(4, 3), wrap

    def forward(self, x):
        return self.wrap(self.layer(x.flatten(1)))


@pytest.mark.parametrize(
    ("wrap", "where"),
    [
        (lambda z: (z, z + 1), "the first of a tuple of 2"),
        (lambda z: {"features": z + 1, "logits": z}, "'logits' of a dict"),
        (Answer, ".logits of a Answer"),
        (lambda z: z, ""),
    ],
)
def test_logits_are_taken_out_of_what_a_network_returns(wrap, where):
    x, network = torch.rand(5, 1, 2, 2), Wrapping(wrap)
    model = UserNetwork(network, "mine")
    assert torch.equal(model(x), network.layer(x.flatten(1)))
    assert model.output == where
    assert output_of(model) == ({"model_output": where} if where else {})
    assert output_of(network) == {}


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (
            lambda z: z[:, :1].sigmoid(),
            r"floating-point logits \(5, 2\): of z .* return torch.stack",
        ),
        (lambda z: z[:, 0].sigmoid(), r"gives one number an image"),
        (lambda z: [z], "returns a list; it must return logits"),
        (lambda z: (None, z), "returns a NoneType; it must"),
        (lambda z: {"scores": z}, "returns a dict; it must"),
    ],
)
def test_what_holds_no_logits_is_refused(wrap, message):
    with pytest.raises(NetworkError, match=message) as refusal:
        UserNetwork(Wrapping(wrap), "mine")(torch.rand(5, 1, 2, 2))
    assert len(str(refusal.value)) <= 300
