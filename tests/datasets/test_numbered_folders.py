"""Class folders named by numbers whose order as text is another."""

import pytest

from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets.readers.class_folders import labelled_files


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["9", "10"], "class 10 sorts before 9,"),
        (["8", "9", "10"], "class 10 sorts before 8,"),
        (["0", "1", "2", "10"], "class 10 sorts before 2,"),
    ],
)
def test_the_two_classes_whose_order_differs_are_named(tmp_path, names, said):
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=said):
        labelled_files(tmp_path, None)
