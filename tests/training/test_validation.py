"""Validation: what the choice of the checkpoint rests on."""

from dataclasses import replace
from fractions import Fraction

import torch
from torch import nn

from robustbench_lite.datasets import Split
from robustbench_lite.training.recipe import ValidationSection
from robustbench_lite.training.validation import validate

SECTION = ValidationSection(1, "robust_accuracy", "Linf", Fraction(1, 10), Fraction(1, 40), 5)


def split(*pixels):
    images = torch.tensor(pixels, dtype=torch.uint8).view(-1, 1, 1, 1)
    return Split("toy", "train", images, torch.zeros(len(pixels), dtype=torch.int64), 2)


class Line(nn.Module):
    """Class 0 below 0.5, class 1 above."""

    def forward(self, x):
        score = x.flatten(1) - 0.5
        return torch.cat([-score, score], dim=1)


def test_accuracies_are_of_all_examples():
    # 0.2 stays right, 0.45 is broken, 0.8 is wrong when clean
    assert validate(Line(), split(51, 115, 204), SECTION, seed=0) == {
        "clean_accuracy": 2 / 3,
        "robust_accuracy": 1 / 3,
    }


def test_the_mean_over_the_classes_counts_a_rare_class_as_much_as_a_frequent_one():
    data = split(51, 51, 51, 115, 204, 230)  # right and robust: the first three and the last two
    data.labels[4:] = torch.tensor([1, 0])
    section = replace(SECTION, select_by="class_mean_robust_accuracy")
    assert validate(Line(), data, section, seed=0) == {
        "clean_accuracy": 5 / 6,
        "robust_accuracy": 4 / 6,
        "class_mean_robust_accuracy": (3 / 5 + 1) / 2,  # a third class of the set has none here
    }


def test_an_example_that_only_its_clean_image_gets_wrong_is_not_robust():
    class Hole(nn.Module):
        """Wrong exactly at the clean pixel; no attacked image hits it again."""

        def forward(self, x):
            value = x.flatten(1)
            wrong = (value - 51 / 255).abs() < 1e-9
            score = torch.where(wrong, torch.ones_like(value), -torch.ones_like(value))
            return torch.cat([-score, score], dim=1) + 1e-3 * value

    accuracies = validate(Hole(), split(51), SECTION, seed=0)
    assert accuracies == {"clean_accuracy": 0.0, "robust_accuracy": 0.0}
