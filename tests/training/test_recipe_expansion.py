"""Recipes with a base: what is kept of it, what is refused, and which file a message names."""

import tomllib

import pytest

from robustbench_lite.core.errors import InputError
from robustbench_lite.training.recipe import load_recipe, recipe_files
from robustbench_lite.training.recipe_expansion import expand, shipped_files


def write(folder, **texts):
    """Recipe files in a folder; the path of the last one."""
    for name, text in texts.items():
        path = folder / f"{name}.toml"
        path.write_text(text)
    return path


def test_own_keys_lie_over_those_of_the_base_and_of_its_base(tmp_path):
    path = write(
        tmp_path,
        lower='base = "digits_pgd_at"\n[training]\nepochs = 7\nseed = 5\n',
        upper='base = "lower.toml"\n[training]\nepochs = 9\n[defense.crafting]\nsteps = 3\n',
    )
    recipe, below = load_recipe(str(path)), load_recipe("digits_pgd_at")
    assert recipe.name == "upper"
    assert (recipe.training.epochs, recipe.training.seed) == (9, 5)
    assert recipe.defense.crafting.steps == 3
    assert recipe.defense.crafting.eps == below.defense.crafting.eps
    assert recipe.optimizer == below.optimizer
    assert load_recipe(str(path), ["--training.epochs", "2"]).training.epochs == 2


def test_a_path_is_relative_to_the_file_in_which_it_stands(tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    write(tmp_path, shared='base = "digits_standard"\n[training]\nepochs = 4\n')
    path = write(tmp_path / "inner", mine='base = "../shared.toml"\n')
    monkeypatch.chdir(tmp_path / "inner")
    assert load_recipe(str(path)).training.epochs == 4
    assert load_recipe("mine.toml").training.epochs == 4


def test_another_method_keeps_nothing_of_the_method_of_the_base(tmp_path):
    path = write(tmp_path, mine='base = "digits_trades"\n[defense]\nname = "mart"\nbeta = 5.0\n')
    message = "missing key defense.crafting .where defense.name is not its base's"
    with pytest.raises(InputError, match=message):
        load_recipe(str(path))
    same = write(tmp_path, mine='base = "digits_trades"\n[defense]\nname = "trades"\nbeta = 5.0\n')
    assert load_recipe(str(same)).defense.beta == 5.0
    schedule = '[schedule]\nname = "step"\nmilestones = [2]\ngamma = 0.1\n'
    other = write(tmp_path, mine=f'base = "digits_trades"\n{schedule}')
    assert expand(other).data["schedule"] == tomllib.loads(schedule)["schedule"]


def test_another_data_set_or_network_takes_over_no_key_either(tmp_path):
    path = write(tmp_path, mine='base = "mnist_trades"\n[data]\nname = "svhn"\n')
    with pytest.raises(InputError, match="missing key data.validation"):
        load_recipe(str(path))
    path = write(tmp_path, mine='base = "mnist_random_mask"\n[model]\nname = "preact_resnet18"\n')
    with pytest.raises(InputError, match="missing key model.normalization"):
        load_recipe(str(path))


def test_options_of_the_network_are_replaced_as_a_whole(tmp_path):
    options = "[model.options]\nmask_seed = 3\n"
    path = write(tmp_path, mine=f'base = "mnist_random_mask"\n{options}')
    assert load_recipe(str(path)).model.options == {"mask_seed": 3}
    path = write(tmp_path, mine='base = "mnist_random_mask"\n[model]\noptions = {}\n')
    assert load_recipe(str(path)).model.options == {}


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ('"digits_trads"', "unknown base 'digits_trads'; did you mean digits_trades"),
        ('"mnst"', "unknown base 'mnst'; did you mean mnist"),
        ("3", "unknown base 3; allowed: one of cifar10, "),
        ('"other.toml"', "base='other.toml' does not exist: no file "),
        ('"mine.toml"', "bases go in a circle: .*mine.toml -> .*mine.toml"),
        ('"above.toml"', "bases go in a circle: .*mine.toml -> .*above.toml -> .*mine.toml"),
        ('"mnist"', "missing key defense.name"),
        ('"digits_trades"\n[base]', "no valid TOML"),
    ],
)
def test_a_wrong_base_is_one_line_that_names_the_file(tmp_path, base, message):
    path = write(tmp_path, above='base = "mine.toml"\n', mine=f"base = {base}\n")
    with pytest.raises(InputError, match=message) as caught:
        load_recipe(str(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        "[training]\nepohs = 3\n",
        "[trainigs]\nepochs = 3\n",
        "[training.epochs]\nx = 3\n",
        '[training]\nepochs = "many"\n',
        "[training]\nepochs = 0\n",
        "[training]\nema_decay = 1.0\n",
        "[training]\nseed = -1\n",
        "[optimizer]\nlr = 0.0\n",
        "[optimizer]\nweight_decay = -1.0\n",
        "[schedule]\npeak = 2.0\n",
        "[label_loss]\nsmoothing = 1.5\n",
        "[validation]\neps = 8\n",
        "[defense.crafting]\nstepz = 3\n",
        '[defense.crafting]\neps = "a"\n',
        "[defense.crafting]\neps = 8\n",
        "[defense.crafting]\nsteps = -1\n",
        '[defense]\nname = "tradez"\n',
        '[defense]\nname = "mart"\nbeta = 5.0\nname2 = 1\n',
        "training = 3\n",
    ],
)
def test_a_message_names_the_file_in_which_the_wrong_key_stands(tmp_path, wrong):
    """In the base, whatever the recipe itself says beside it; and in the recipe, likewise."""
    fine = "[data]\nflip = false\n[optimizer]\nmomentum = 0.8\n[defense.crafting]\nalpha = 0.1\n"
    write(tmp_path, lower=f'base = "digits_trades"\n{wrong}')
    above = write(tmp_path, upper=f'base = "lower.toml"\n{fine}')
    with pytest.raises(InputError, match=r"lower\.toml") as caught:
        load_recipe(str(above))
    assert "upper.toml" not in str(caught.value)
    write(tmp_path, lower=f'base = "digits_trades"\n{fine}')
    above = write(tmp_path, upper=f'base = "lower.toml"\n{wrong}')
    with pytest.raises(InputError, match=r"upper\.toml") as caught:
        load_recipe(str(above))
    assert "lower.toml" not in str(caught.value)


def test_a_wrong_flag_is_not_blamed_on_the_base(tmp_path):
    path = write(tmp_path, mine='base = "digits_trades"\n')
    with pytest.raises(InputError, match=r"mine\.toml: training.epochs is 0") as caught:
        load_recipe(str(path), ["--training.epochs", "0"])
    assert "digits" not in str(caught.value)


def test_bases_are_no_recipes_and_their_names_mean_one_file():
    recipes, bases = shipped_files()
    assert recipes == recipe_files()
    assert not set(recipes) & set(bases)
    assert "mnist" in bases
    for name, path in bases.items():
        assert path.stem == f"_{name}"
        with pytest.raises(InputError, match="missing key"):
            load_recipe(str(path))


def test_every_shipped_base_is_used():
    used = {file.stem for path in recipe_files().values() for file in expand(path).bases}
    assert {f"_{name}" for name in shipped_files()[1]} <= used
