"""The built-in recipes: they load, every section answers --set, and mimo7b holds the paper's figures."""

import dataclasses
import re
from dataclasses import replace

import pytest

from openmimo.config import keys, with_overrides
from openmimo.recipes import BUILT_IN, Recipe, ablations, check, load
from openmimo.recipes.mimo7b import mimo7b, mimo7b_0530
from openmimo.recipes.tiny import tiny
from openmimo.rl.budget import Budget

SECTIONS = [f.name for f in dataclasses.fields(Recipe) if f.name not in ("name", "threads")]
NEW = {
    "data": "data.max_pages=7",
    "corpus": "corpus.num_rl=7",
    "model": "model.hidden_size=256",
    "pretrain": "pretrain.batch_ramp_tokens=2e6",
    "sft": "sft.learning_rate=1e-4",
    "draft": "draft.num_samples=7",
    "rl": "rl.scheme=strict",
    "engine": "engine.max_batch_size=7",
    "judge": "judge.wall_s=0.7",
    "eval": "eval.sweep_temperatures=0.1,0.2",
}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ("rl.checkpoint_every=0", "rl.checkpoint_every must be at least 1, got 0"),
        ("rl.minibatch_groups=0", "rl.minibatch_groups must be at least 1, got 0"),
        ("rl.batch_groups=0", "rl.batch_groups must be at least 1, got 0"),
        ("rl.num_rollouts=1", "rl.num_rollouts must be at least 2, got 1"),
        ("rl.validate_every=-1", "rl.validate_every must be at least 0, got -1"),
        ("rl.max_active_groups=0", "rl.max_active_groups must be at least 1, got 0"),
        ("rl.temperature=0", "rl.temperature must be above 0, got 0"),
        ("rl.temperature=-1", "rl.temperature must be above 0, got -1"),
    ],
)
def test_what_rl_would_stumble_on_is_refused_before_any_stage(changed: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check(with_overrides(tiny(), [changed]))


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_recipe_is_one_that_can_be_run(name: str) -> None:
    check(load(name))


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_recipe_loads_under_its_name(name: str) -> None:
    assert load(name).name == name


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_of_every_recipe_can_be_overridden(name: str, section: str) -> None:
    recipe = load(name)
    changed = with_overrides(recipe, [NEW[section]])
    key = NEW[section].split("=")[0].split(".")[1]
    assert getattr(getattr(changed, section), key) != getattr(getattr(recipe, section), key)
    assert replace(changed, **{section: getattr(recipe, section)}) == recipe  # and nothing else moved
    assert NEW[section].split("=")[0] in keys(recipe)


def test_every_ablation_is_tiny_with_one_section_changed() -> None:
    made = [
        f()
        for name, f in vars(ablations).items()
        if name[0] != "_" and callable(f) and getattr(f, "__module__", "") == ablations.__name__
    ]
    assert len(made) >= 11
    for recipe in made:
        same = [getattr(recipe, section) == getattr(tiny(), section) for section in SECTIONS]
        assert same.count(False) == 1 and recipe.name != "tiny"
        check(recipe)
        Budget(recipe.rl.budget, recipe.rl.max_new_tokens)


def test_mimo7b_mixes_what_the_paper_says() -> None:
    first, second, third = (stage.mixture for stage in mimo7b().pretrain.stages)
    for mixture in (first, second, third):
        assert sum(mixture.values()) == pytest.approx(1.0)
    assert "synthetic" not in first and "synthetic" not in second  # MiMo 2.1: responses come in stage 3
    assert second["maths"] + second["code"] == pytest.approx(0.7)
    assert third["synthetic"] == pytest.approx(0.1)


def test_mimo7b_0530_updates_once_a_batch() -> None:
    assert mimo7b().rl.batch_groups // mimo7b().rl.minibatch_groups == 16
    assert mimo7b_0530().rl.batch_groups == mimo7b_0530().rl.minibatch_groups == 512


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("rl.level_weights=1,2", "rl.level_weights must be three numbers above 0, easy to hard, got (1.0, 2.0)"),
        ("rl.importance_cap=-1", "rl.importance_cap must be at least 0, got -1.0"),
        ("rl.budget.before=32", "budgets that nothing raises"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_anything_begins(change: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        check(with_overrides(tiny(), [change]))


def test_mimo7b_0530_raises_its_budget_twice() -> None:
    rl = mimo7b_0530().rl
    assert [*rl.budget.before, rl.max_new_tokens] == [32 * 1024, 38 * 1024, 48 * 1024]  # MiMo 0530
    assert rl.context > rl.max_new_tokens and rl.context == mimo7b_0530().engine.max_model_len
