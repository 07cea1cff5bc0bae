"""Learning-rate traces."""

import pytest

from robustbench_lite.attacks.errors import InputError
from robustbench_lite.schedules import Cosine, OneCycle, Step


@pytest.mark.parametrize(
    ("t", "lr"), [(0.01, 0.1), (99.999, 0.1), (100, 0.01), (149.99, 0.01), (150, 0.001)]
)
def test_step_gives_the_trace_of_rice_et_al(t, lr):
    assert 0.1 * Step((100, 150), 0.1).factor(t, 200) == pytest.approx(lr)


def test_cosine_goes_from_one_to_zero_through_a_half():
    assert [Cosine().factor(t, 8) for t in (0, 4, 8)] == pytest.approx([1.0, 0.5, 0.0])


def test_one_cycle_is_linear_up_and_down():
    cycle = OneCycle(0.25)
    assert [cycle.factor(t, 8) for t in (0, 1, 2, 5, 8)] == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_wrong_schedules_are_named():
    with pytest.raises(InputError, match=r"milestones=\[5, 3\] must rise"):
        Step((5, 3), 0.1)
    with pytest.raises(InputError, match=r"peak=1.0"):
        OneCycle(1.0)
