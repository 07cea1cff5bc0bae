"""Which network it is: the same hash for the same one, another for another, code included."""

import functools

import pytest
import torch
from conftest import small_net
from torch import nn

from robustbench_lite.api.identity import network_hash, pieces_of
from robustbench_lite.api.network import FunctionNetwork

CODE = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = SCALE
    def forward(self, x):
        return x.flatten(1) * FACTOR
"""


def of_class(factor):
    """A class without a file, as in a notebook."""
    session = {"__name__": "notebook"}
    exec(CODE.replace("FACTOR", factor).replace("SCALE", "1"), session)
    return network_hash(session["Net"](), [])


def of_function(function):
    pieces = pieces_of(function)
    return network_hash(FunctionNetwork(function, pieces), pieces)


def test_the_code_of_a_class_counts_without_a_file():
    assert of_class("2") == of_class("2") != of_class("3")
    assert of_class("len({1, 2})") != of_class("x.max()")


def test_weights_and_classes_count():
    net = small_net()
    before = network_hash(net, [])
    assert network_hash(small_net(), []) == before
    net[5].bias.data[0] += 1
    assert network_hash(net, []) != before
    assert network_hash(nn.Sequential(nn.Flatten()), []) != network_hash(nn.Flatten(), [])


NETWORK = nn.Linear(4, 2)
SHIFT = torch.zeros(1)


def by_globals(x):
    return NETWORK(x.flatten(1) - SHIFT)


def scaled(x, factor):
    return by_globals(x) * factor


class Callable:
    def __init__(self, network):
        self.network = network

    def __call__(self, x):
        return self.network(x)


def test_what_a_function_computes_with_is_found(monkeypatch):
    assert [piece for piece in pieces_of(by_globals) if isinstance(piece, nn.Module)] == [NETWORK]
    before = of_function(by_globals), of_function(functools.partial(scaled, factor=2))
    assert before == (of_function(by_globals), of_function(functools.partial(scaled, factor=2)))
    assert of_function(functools.partial(scaled, factor=3)) != before[1]
    monkeypatch.setitem(globals(), "SHIFT", torch.ones(1))
    assert of_function(by_globals) != before[0]
    assert of_function(functools.partial(scaled, factor=2)) != before[1]


def test_an_object_that_is_called_counts_with_its_network():
    first, second = nn.Linear(4, 2), nn.Linear(4, 2)
    assert of_function(Callable(first)) == of_function(Callable(first))
    assert of_function(Callable(first)) != of_function(Callable(second))
    assert pieces_of(Callable(first).__call__)[-1] is first


class Scaled(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return x.flatten(1) * self.scale


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Scaled(1.0), Scaled(-1.0)),
        (Scaled({"factors": [1, 2]}), Scaled({"factors": [1, 3]})),
        (Scaled({"a": 1}), Scaled({"b": 1})),
        (Scaled({1, 2}), Scaled({1, 3})),
        (Scaled(torch.ones(2)), Scaled(torch.zeros(2))),
        (Scaled(lambda x: x + 1), Scaled(lambda x: x + 2)),
        (Scaled(nn.functional.relu), Scaled(nn.functional.tanh)),
        (Scaled(torch.relu), Scaled(torch.tanh)),
        (nn.Sequential(nn.MaxPool2d(2)), nn.Sequential(nn.MaxPool2d(3))),
        (nn.Flatten(), nn.Flatten(2)),
    ],
)
def test_what_a_module_holds_beside_tensors_counts(one, other):
    assert network_hash(one, []) == network_hash(one, []) != network_hash(other, [])


def test_hooks_count_and_modes_do_not():
    net = nn.Sequential(nn.Flatten())
    before = network_hash(net.train(), [])
    assert network_hash(net.eval(), []) == before
    net.register_forward_hook(lambda module, given, found: -found)
    assert network_hash(net, []) != before


class Holder:
    """No module and no callable: it only has a method that computes logits."""

    def __init__(self, network):
        self.network = network

    def logits(self, x):
        return self.network(x)


def test_the_network_behind_a_method_counts():
    first, second = nn.Linear(4, 2), nn.Linear(4, 2)
    assert [*FunctionNetwork(Holder(first).logits, pieces_of(Holder(first).logits)).parts] == [
        first
    ]
    assert of_function(Holder(first).logits) == of_function(Holder(first).logits)
    assert of_function(Holder(first).logits) != of_function(Holder(second).logits)


def test_a_function_is_not_copied_with_its_network():
    import copy

    with pytest.raises(TypeError, match="give an nn.Module"):
        copy.deepcopy(FunctionNetwork(by_globals, pieces_of(by_globals)))
