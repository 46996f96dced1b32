"""Typed recipes: nested frozen dataclasses, `--set a.b=c`, fingerprints.

A recipe is a Python function that returns a dataclass of the rooms' Configs; nothing here knows which.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word closest to `word`: what an error message should offer."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.0)
    return close[0] if close else ""


def missing_file(path: Path) -> ValueError:
    """The error for a path that is not there, naming the nearest that is."""
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    close = nearest(path.name, siblings)
    return ValueError(f"{path} does not exist" + (f"; the nearest is {str(path.parent / close)!r}" if close else ""))


def with_overrides(config: T, assignments: Sequence[str]) -> T:
    """Apply `a.b=c` assignments to a nested frozen dataclass.

    Raises:
        ValueError: for a malformed assignment, an unknown key (naming the nearest) or a value of the wrong type.
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"--set takes a.b=c, got {assignment!r}")
        config = _set(config, key.strip().split("."), text.strip(), key.strip())
    return config


def to_dict(config: Any) -> Any:
    """Plain JSON types, for the run folder and for fingerprints."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, dict):
        return {str(k): to_dict(v) for k, v in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_dict(v) for v in config]
    return config


def fingerprint(config: Any) -> str:
    """16 hex digits that change when any value of the config changes."""
    text = json.dumps(to_dict(config), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """`a.b: old -> new` for every leaf in which two plain configs differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted(set(old) | set(new))
            for line in differences(old.get(key), new.get(key), f"{prefix}{key}.")
        ]
    return [] if old == new else [f"{prefix[:-1]}: {old!r} -> {new!r}"]


def keys(config: Any, prefix: str = "") -> list[str]:
    """Every dotted key that `--set` knows."""
    found = []
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            found += keys(value, f"{prefix}{f.name}.")
        else:
            found.append(prefix + f.name)
    return found


def _set(config: Any, path: list[str], text: str, key: str) -> Any:
    names = [f.name for f in dataclasses.fields(config)]
    head = path[0]
    if head not in names:
        prefix = key.split(".")[: -len(path)]
        suggestion = ".".join([*prefix, nearest(head, names), *path[1:]])
        raise ValueError(f"unknown --set key {key!r}; the nearest is {suggestion!r}")
    value = getattr(config, head)
    if len(path) > 1:
        if not dataclasses.is_dataclass(value):
            raise ValueError(f"unknown --set key {key!r}: {head!r} has no fields; the nearest is {head!r}")
        return dataclasses.replace(config, **{head: _set(value, path[1:], text, key)})
    if dataclasses.is_dataclass(value):
        raise ValueError(
            f"--set {key}={text}: {key} is a section; name one of its fields, for example {keys(value, key + '.')[0]}"
        )
    hint = typing.get_type_hints(type(config))[head]
    return dataclasses.replace(config, **{head: _parse(text, hint, key)})


def _parse(text: str, hint: Any, key: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if text.lower() in ("none", "null") and type(None) in args:
            return None
        return _parse(text, next(a for a in args if a is not type(None)), key)
    if origin is typing.Literal:
        if text not in args:
            raise ValueError(f"--set {key}={text}: expected one of {', '.join(map(str, args))}")
        return text
    if origin is tuple:
        items = [item.strip() for item in text.strip("()[]").split(",") if item.strip()]
        kinds = [args[0]] * len(items) if len(args) == 2 and args[1] is Ellipsis else list(args)
        if len(kinds) != len(items):
            raise ValueError(f"--set {key}={text}: expected {len(kinds)} values separated by commas")
        return tuple(_parse(item, kind, key) for item, kind in zip(items, kinds, strict=True))
    try:
        if hint is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if hint is int:
            value = float(text) if "e" in text.lower() else int(text.replace("_", ""))
            if value != int(value):
                raise ValueError(f"{text} is no integer")
            return int(value)
        if hint is float:
            return float(text.replace("_", ""))
    except (KeyError, ValueError, OverflowError) as error:
        raise ValueError(f"--set {key}={text}: expected {hint.__name__}") from error
    if hint is str:
        return text
    raise ValueError(f"--set {key}={text}: a {hint} cannot be set from the command line")
