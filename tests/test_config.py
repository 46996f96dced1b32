from dataclasses import dataclass, field
from typing import Literal

import pytest

from openmimo.config import differences, fingerprint, nearest, to_dict, with_overrides


@dataclass(frozen=True)
class Inner:
    rate: float = 1e-3
    kind: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = (1, 2)
    limit: int | None = None


@dataclass(frozen=True)
class Outer:
    name: str = "x"
    on: bool = False
    inner: Inner = field(default_factory=Inner)


def test_overrides_reach_into_sections_with_the_right_types() -> None:
    changed = with_overrides(
        Outer(), ["inner.rate=2e-4", "inner.kind=b", "inner.sizes=3,4,5", "on=true", "inner.limit=7", "name=y=z"]
    )
    assert changed == Outer("y=z", True, Inner(2e-4, "b", (3, 4, 5), 7))
    assert with_overrides(changed, ["inner.limit=none"]).inner.limit is None


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("inner.rats=1", ["inner.rats", "inner.rate"]),
        ("iner.rate=1", ["iner.rate", "inner.rate"]),
        ("name.x=1", ["name.x"]),
        ("inner=1", ["inner", "section"]),
        ("inner.rate=fast", ["inner.rate=fast", "float"]),
        ("inner.kind=c", ["inner.kind=c", "a, b"]),
        ("rate", ["a.b=c"]),
    ],
)
def test_a_wrong_override_names_itself_and_what_would_be_right(assignment: str, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        with_overrides(Outer(), [assignment])
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)


def test_a_fingerprint_changes_with_any_value_and_only_then() -> None:
    assert fingerprint(Outer()) == fingerprint(Outer())
    assert fingerprint(Outer()) != fingerprint(with_overrides(Outer(), ["inner.sizes=1,3"]))


def test_differences_name_every_changed_leaf() -> None:
    old, new = to_dict(Outer()), to_dict(with_overrides(Outer(), ["inner.rate=1", "name=y"]))
    assert differences(old, new) == ["inner.rate: 0.001 -> 1.0", "name: 'x' -> 'y'"]


def test_the_nearest_word_is_the_one_a_typo_meant() -> None:
    assert nearest("pretrian", ["rl", "pretrain", "sft"]) == "pretrain"
