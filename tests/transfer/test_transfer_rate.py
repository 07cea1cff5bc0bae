"""The defense success rate on worked examples, for one source and for several."""

import pytest
import torch

from robustbench_lite.leaderboard.statistics.accuracy import wilson_interval
from robustbench_lite.transfer.success_rate import TransferCounts, count_transfer


def counts(target_adv: list[int]) -> TransferCounts:
    """The sheet's example: six images of labels 0 to 5."""
    return count_transfer(
        torch.arange(6),
        source_clean=torch.tensor([0, 1, 2, 3, 4, 0]),
        source_adv=torch.tensor([1, 1, 0, 3, 0, 0]),
        target_clean=torch.tensor([0, 1, 2, 3, 0, 5]),
        target_adv=torch.tensor(target_adv),
    )


def test_the_rate_counts_only_images_that_both_had_right_and_the_source_lost() -> None:
    first = counts([0, 0, 2, 3, 0, 1])
    assert first == TransferCounts(counted=2, kept=2, repeated=0, correct=3, n=6)
    record = first.as_dict()
    assert record["defense_success_rate"]["value"] == 1.0
    assert record["repeat_label_share"] == 0.0
    assert record["accuracy"]["value"] == 0.5
    second = counts([0, 0, 0, 3, 0, 1]).as_dict()
    assert second["defense_success_rate"]["value"] == 0.5
    assert second["repeat_label_share"] == 0.5
    assert second["accuracy"]["value"] == pytest.approx(1 / 3, abs=1e-15)
    assert second["accuracy"]["interval"] == list(wilson_interval(2, 6))


def test_a_rate_over_no_images_is_none_and_not_a_number() -> None:
    labels = torch.arange(3)
    same = dict.fromkeys(("source_clean", "source_adv", "target_clean", "target_adv"), labels)
    record = count_transfer(labels, **same).as_dict()
    assert record["counted"] == 0
    assert record["defense_success_rate"] is None
    assert record["repeat_label_share"] is None
    assert record["accuracy"]["value"] == 1.0


def test_over_several_sources_one_that_fools_the_target_is_enough() -> None:
    # Images 0 to 4, all of label 0. Source A fools itself on 0, 1, 2, source B on 2, 3 and has 1
    # wrong when clean. The target has 4 wrong when clean.
    record = count_transfer(
        torch.zeros(5, dtype=torch.int64),
        source_clean=torch.tensor([[0, 0, 0, 0, 0], [0, 1, 0, 0, 0]]),
        source_adv=torch.tensor([[1, 1, 1, 0, 1], [0, 1, 2, 2, 1]]),
        target_clean=torch.tensor([0, 0, 0, 0, 1]),
        target_adv=torch.tensor([[0, 0, 0, 3, 1], [0, 3, 2, 0, 1]]),
    )
    # Counted: 0, 1, 2 by A and 2, 3 by B. B fools the target on 2. On 3 it is A, who had no success
    # of its own there, and on 1 it is B, who had 1 wrong before: neither counts against the rate.
    assert record == TransferCounts(counted=4, kept=3, repeated=1, correct=1, n=5)
