"""A recipe is a function that returns a `Recipe`: the rooms' Configs side by side, and the stages in order.

A variant is `replace(base(), ...)`; a user's own is `openmimo run my_recipe.py:name`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from openmimo.config import missing_file, nearest
from openmimo.curate.corpus import CorpusConfig
from openmimo.data.pipeline import DataConfig
from openmimo.draft import DraftingConfig
from openmimo.engine.engine import EngineConfig
from openmimo.eval.run import EvalConfig
from openmimo.judge.pool import JudgeConfig
from openmimo.model.config import MiMoConfig
from openmimo.rl.budget import check_budget
from openmimo.rl.config import RLConfig
from openmimo.train.pretrain import PretrainConfig, check_stages
from openmimo.train.sft import SFTConfig

STAGES = ("data", "pretrain", "sft", "draft", "rl", "eval")


@dataclass(frozen=True)
class Recipe:
    name: str
    data: DataConfig = field(default_factory=DataConfig)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    model: MiMoConfig = field(default_factory=MiMoConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    draft: DraftingConfig = field(default_factory=DraftingConfig)
    rl: RLConfig = field(default_factory=RLConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    threads: int = 2
    """CPU threads of the training process; part of the recipe because sums depend on it in the last bit."""


BUILT_IN = {
    "nano": "openmimo.recipes.nano:nano",
    "tiny": "openmimo.recipes.tiny:tiny",
    "mimo7b": "openmimo.recipes.mimo7b:mimo7b",
    "one_gpu": "openmimo.recipes.one_gpu:one_gpu",
}


def load(name: str) -> Recipe:
    """A built-in recipe by name, or `path/to/file.py:function`.

    Raises:
        ValueError: for an unknown recipe (naming the nearest), a missing file or function, or one of no Recipe.
    """
    if name in BUILT_IN:
        module, function = BUILT_IN[name].split(":")
        return _call(getattr(importlib.import_module(module), function), name)
    path, colon, function = name.rpartition(":")
    if not colon:
        raise ValueError(
            f"unknown recipe {name!r}; the nearest is {nearest(name, BUILT_IN)!r} (or give FILE.py:FUNCTION)"
        )
    if not Path(path).is_file():
        raise missing_file(Path(path))
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file; a recipe stands in FILE.py:FUNCTION")
    module_ = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module_)
    except Exception as error:  # the user's own code
        raise ValueError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    functions = {k: v for k, v in vars(module_).items() if callable(v) and not k.startswith("_")}
    if function not in functions:
        raise ValueError(f"{path} has no recipe {function!r}; the nearest is {nearest(function, functions)!r}")
    return _call(functions[function], name)


def check(recipe: Recipe) -> None:
    """Refuse, before any stage begins, what a late stage would stumble on.

    Raises:
        ValueError: naming the key, its value and the least right one.
    """
    at_least = {
        "threads": (recipe.threads, 1),
        **{
            f"{stage}.{name}": (getattr(getattr(recipe, stage), name), least)
            for stage in ("pretrain", "sft")
            for name, least in (("checkpoint_every", 1), ("keep_last", 1), ("micro_rows", 0), ("chunk_tokens", 0))
        },
        "pretrain.keep_every": (recipe.pretrain.keep_every, 0),
        "pretrain.validate_every": (recipe.pretrain.validate_every, 0),
        "pretrain.guard.window": (recipe.pretrain.guard.window, 2),
        "pretrain.guard.patience": (recipe.pretrain.guard.patience, 1),
        "rl.num_rollouts": (recipe.rl.num_rollouts, 2),
        **{
            f"rl.{name}": (getattr(recipe.rl, name), least)
            for least, names in (
                (0, ("steps", "validate_every", "show_every", "num_shown", "micro_rows", "warmup_steps")),
                (0, ("no_groups_steps", "not_finite_updates", "collapsed_steps", "num_engines", "importance_cap")),
                (1, ("batch_groups", "minibatch_groups", "max_new_tokens", "max_active_groups", "max_launch_factor")),
                (1, ("checkpoint_every", "keep_last")),
                (0, ("curation_samples", "language_penalty")),
            )
            for name in names
        },
        "eval.num_samples": (recipe.eval.num_samples, 1),
        "eval.sweep_samples": (recipe.eval.sweep_samples, 1),
        "eval.max_active_requests": (recipe.eval.max_active_requests, 1),
        "eval.max_new_tokens": (recipe.eval.max_new_tokens, 1),
        "eval.temperature": (recipe.eval.temperature, 0),
        "eval.sweep_temperatures": (min(recipe.eval.sweep_temperatures, default=0), 0),
        "judge.num_workers": (recipe.judge.num_workers, 1),
        **{
            f"model.{name}": (getattr(recipe.model, name), 1)
            for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        },
    }
    for key, (value, least) in at_least.items():
        if not value >= least:
            raise ValueError(f"{key} must be at least {least}, got {value}")
    check_stages(recipe.pretrain)
    longest = max(stage.context for stage in recipe.pretrain.stages)
    if longest > recipe.model.max_position_embeddings:
        raise ValueError(
            f"model.max_position_embeddings must be at least {longest}, the longest context of pretrain.stages, "
            f"got {recipe.model.max_position_embeddings}"
        )
    if not recipe.rl.temperature > 0:
        raise ValueError(f"rl.temperature must be above 0, got {recipe.rl.temperature}: greedy responses are all equal")
    check_budget(recipe.rl.budget, recipe.rl.max_new_tokens)
    weights = recipe.rl.level_weights
    if weights and (len(weights) != 3 or min(weights) <= 0):
        raise ValueError(f"rl.level_weights must be three numbers above 0, easy to hard, got {weights}")


def _call(function: Callable[[], object], name: str) -> Recipe:
    try:
        recipe = function()
    except Exception as error:  # the user's own code
        raise ValueError(f"recipe {name} failed: {type(error).__name__}: {error}") from error
    if not isinstance(recipe, Recipe):
        raise ValueError(f"recipe {name} returned {type(recipe).__name__}; it should return an openmimo.recipes.Recipe")
    return recipe
