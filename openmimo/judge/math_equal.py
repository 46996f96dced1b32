"""Are two answers the same? math-verify says so, and nothing here contradicts it (MiMo 3.2).

math-verify reads, and has the last word. Before it, definite differences are refused, found in the text or by
evaluating both values to 30 digits: it drops units and bases of numerals, takes the last side of a false equation, and
rounds small numbers away. Equal numbers and polynomials are accepted without it. Runs in a process that can be killed.
Left out: conversion of units, and choosing between readings of an ambiguous answer.
"""

from __future__ import annotations

import functools
import re
from fractions import Fraction
from typing import Any

from openmimo.types import Status

_TEXT = r"\\(?:text|textrm|textbf|textit|mbox|mathrm|rm|operatorname)\s*\{([^{}]*)\}"
_UNIT = re.compile(_TEXT + r"(?:\s*\^\s*\{?\s*([0-9])\s*\}?)?\s*\.?$")
_NUMERAL = re.compile(r"\(?-?[0-9A-Z.]*[0-9][0-9A-Z.]*\)?_(?:\{([0-9]+)\}|([0-9]))")
_TRIGONOMETRIC = r"\\(?:sin|cos|tan|cot|sec|csc)"
_RAYS = re.compile(r"\\infty|\\cup|\\in(?![a-z])|[\[\]]")
_SPACES = re.compile(r"\\[!,;:> ]|\\q?quad(?![A-Za-z])|[~\s]")
_PERIOD = re.compile(r"(?<=[^.])\.$")
_BARE_FRACTION = re.compile(r"\\frac\s*(\\[a-z]+)\s*([0-9])")
_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:(?:\\[,;]|,(?=[0-9]{3}\}))[0-9]{3})+(?![0-9])")
_PREFIX = re.compile(
    r"^\\text\{\s*(?:the |our |so )*(?:final )?(?:answer|result|solution|value)(?: is|:| =)?\s*:?\s*\}", re.IGNORECASE
)
_REPEATING = re.compile(r"([0-9]*)\.([0-9]*)\\overline\{\s*([0-9]+)\s*\}")
_QUALIFIER = re.compile(
    r"\b(?:not?|none|never|wrong|incorrect|or (?:more|less|fewer)|at (?:least|most)|(?:more|less) than|greater|about)\b"
)
_BASE_WORD = re.compile(r"_\s*\{\s*\\text\{\s*(?:base )?\s*(\w+)\s*\}\s*\}")

_BASES = {
    word: str(number)
    for number, word in enumerate("two three four five six seven eight nine ten eleven twelve".split(), start=2)
} | {"sixteen": "16"}
_UNITS = {
    "centimeter": "cm centimetre", "millimeter": "mm millimetre", "meter": "m metre", "kilometer": "km kilometre",
    "inch": "in inche", "foot": "ft feet", "yard": "yd", "mile": "mi", "second": "s sec", "minute": "min",
    "hour": "h hr", "kilogram": "kg", "gram": "g", "pound": "lb", "liter": "l litre", "milliliter": "ml millilitre",
    "degree": "deg", "radian": "rad", "percent": "per_cent", "dollar": "usd", "cent": "c", "mile per hour": "mph",
}  # fmt: skip
_CANONICAL = {word: unit for unit, words in _UNITS.items() for word in words.replace("_", " ").split()}
_POWERS = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}


def compare(gold: str, answer: str) -> tuple[Status, str]:
    """(status, detail): `accepted`, `wrong_answer`, or `internal_error` for a gold answer that cannot be read.

    Raises:
        MemoryError: if the process's limit does not suffice.
    """
    try:
        golds = _parse_gold(gold)
    except Exception as error:
        return "internal_error", f"the problem's gold answer cannot be parsed: {gold[:80]!r} ({type(error).__name__})"
    if not golds or isinstance(golds[0], str):  # math-verify gives the text back where it fails
        if _SPACES.sub("", _rewrite(gold)) == _SPACES.sub("", _rewrite(answer)):
            return "accepted", ""
        return "internal_error", f"the problem's gold answer cannot be parsed: {gold[:80]!r}"
    try:
        answers = _parse(answer)
        if not answers:
            return "wrong_answer", "nothing to compare"
        refusal = _difference_in_text(gold, answer) or _difference_in_value(golds[0], answers[0], gold, answer)
        if not refusal and not _same_at_once(golds[0], answers[0]) and not _verify(gold, golds, answers):
            refusal = "not the same"
    except MemoryError:
        raise
    except Exception as error:  # what a parser makes of a policy's text is data
        return "wrong_answer", f"cannot be compared: {type(error).__name__}"
    return ("wrong_answer", refusal) if refusal else ("accepted", "")


@functools.lru_cache(maxsize=4096)
def _parse_gold(gold: str) -> list[Any]:
    return _parse(gold)


def _parse(answer: str) -> list[Any]:
    """Always within delimiters: bare LaTeX of every fifth MATH-500 answer is not found otherwise."""
    from math_verify import LatexExtractionConfig, parse

    bare = _rewrite(answer)
    expressions: list[Any] = []
    # It takes the blanks of `a + b + c` amiss, and may do without them.
    for text in (bare, re.sub(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])", "", bare)):
        expressions = parse(
            f"${text}$", extraction_config=[LatexExtractionConfig()], parsing_timeout=None, raise_on_error=True
        )
        if expressions and not isinstance(expressions[0], str):
            break
    return expressions


def _rewrite(answer: str) -> str:
    """What the reader would miss, in a form that it reads."""
    answer = _BARE_FRACTION.sub(r"\\frac{\1}{\2}", re.sub(r",\\!\s*", ",", answer))
    answer = _PERIOD.sub("", answer.replace("\\$", "").replace("$", "").strip())
    answer = _THOUSANDS.sub(lambda number: re.sub(r"[\\,;]", "", number[0]), _PREFIX.sub("", answer))
    answer = _REPEATING.sub(_fraction, answer)
    return _BASE_WORD.sub(lambda base: f"_{{{_BASES.get(base[1], base[1])}}}", answer)


def _fraction(repeating: re.Match[str]) -> str:
    """0.1\\overline{6} as a fraction."""
    whole, fixed, period = repeating[1] or "0", repeating[2], repeating[3]
    denominator = int("9" * len(period) + "0" * len(fixed))
    return rf"\frac{{{int(whole + fixed + period) - int(whole + fixed)}}}{{{denominator}}}"


def _verify(gold: str, golds: list[Any], answers: list[Any]) -> bool:
    from math_verify import verify

    # `x > 2` is the ray (2, \infty); but `1 < x < 2` is not the point (1, 2), which is written as an interval is.
    options = {"timeout_seconds": None, "allow_set_relation_comp": bool(_RAYS.search(gold))}
    try:
        if verify(golds, answers, raise_on_error=True, **options):
            return True
    except MemoryError:
        raise
    except Exception:  # one way of comparing failed; it goes on to the others when told not to raise
        if verify(golds, answers, **options):
            return True
    one, other = golds[0], answers[0]
    return _is_number(one) and _is_number(other) and _close(one, other, relative=1e-12)


def _difference_in_text(gold: str, answer: str) -> str:
    """Why two answers differ in what math-verify does not read, or ""."""
    brackets = {_bracket(gold), _bracket(answer)}
    if "{" in brackets and brackets & {"(", "["}:
        return "a set is not a tuple or an interval"
    if _qualifiers(gold) != _qualifiers(answer):
        return "a word changes the answer"
    if re.search(_TRIGONOMETRIC, gold) and ("\\circ" in gold) != ("\\circ" in answer) and "\\circ" in gold + answer:
        return "degrees are not radians"
    if _ratio(gold) and _ratio(answer) and _ratio(gold) != _ratio(answer):
        return "the ratios differ"
    if _base(gold) and _base(answer) and _base(gold) != _base(answer):
        return f"bases differ: {_base(gold)}, {_base(answer)}"
    if _base(answer) not in ("", "10", _base(gold)):
        return f"a numeral to base {_base(answer)}"
    if _unit(gold) and _unit(answer) and _unit(gold) != _unit(answer):
        return f"units differ: {_unit(gold)}, {_unit(answer)}"
    return ""


def _bracket(answer: str) -> str:
    """`{`, `(` or `[` if the answer is enclosed in such, else ""."""
    text = re.sub(r"\\left(?![a-z])|\\right(?![a-z])", "", _SPACES.sub("", answer)).replace("\\lbrace", "\\{")
    return "{" if text.startswith("\\{") else text[:1] if text[:1] in ("(", "[") else ""


def _qualifiers(answer: str) -> set[str]:
    return {word for text in re.findall(_TEXT, answer) for word in _QUALIFIER.findall(text.lower())}


def _ratio(answer: str) -> tuple[Fraction, ...]:
    """1:2:3 as shares of the first; () of anything else."""
    parts = _SPACES.sub("", answer).strip("$").split(":")
    if len(parts) < 3 or not all(re.fullmatch("[1-9][0-9]{0,30}", part) for part in parts):
        return ()
    return tuple(Fraction(int(part), int(parts[0])) for part in parts)


def _base(answer: str) -> str:
    """The base of a numeral, `52_8` or `52_{\\text{eight}}`; "" of anything else."""
    found = _NUMERAL.fullmatch(_SPACES.sub("", _rewrite(answer)))
    return (found[1] or found[2]) if found else ""


def _unit(answer: str) -> str:
    """The unit behind (or the currency before) a number, in one spelling: `centimeter^2`; "" if there is none."""
    text = re.sub(r"\\[!,;:> ]|[~\s]", " ", answer).strip().strip("$").strip()
    if re.search(r"\^\s*\{?\s*\\circ\s*\}?$", text):
        return "degree"
    if re.search(r"\\?%$", text):
        return "percent"
    if re.match(r"-?\s*\\\$", answer.strip()):
        return "dollar"
    found = _UNIT.search(text)
    if not found or not re.search(r"[0-9}a-zA-Z)]$", text[: found.start()].strip()):
        return ""
    words = re.sub(r"[^a-z ]", " ", found[1].lower()).split()
    power = found[2] or ""
    if words and words[0] in _POWERS:
        power, words = _POWERS[words[0]], words[1:]
    if words and words[-1] in ("squared", "cubed"):
        power, words = "2" if words[-1] == "squared" else "3", words[:-1]
    singular = [word if len(word) < 3 or word.endswith("ss") else word.removesuffix("s") for word in words]
    unit = " ".join(_CANONICAL.get(word, word) for word in singular)
    return f"{unit}^{power}" if power and power != "1" and unit else unit


def _difference_in_value(gold: Any, answer: Any, gold_text: str, answer_text: str) -> str:
    """Why two values differ although math-verify takes them for equal, or ""."""
    for equation in _equations(answer):
        if not equation.lhs.free_symbols and not equation.rhs.free_symbols and not _close(equation.lhs, equation.rhs):
            return "the answer is a false equation"
    if any(equation.lhs.is_Add for equation in _equations(gold)) and not _equations(answer):
        return "a value is not an equation"
    if _is_number(gold) and _is_list(answer_text):
        return "several answers for one"
    percent = "%" in gold_text or "%" in answer_text
    return "the values differ" if _differ(gold, answer, percent) else ""


def _is_list(answer: str) -> bool:
    """Whether a comma stands outside every bracket, other than between thousands."""
    text = re.sub(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))", "", _SPACES.sub("", _rewrite(answer)))
    depth = 0
    for character in text:
        depth += (character in "({[") - (character in ")}]")
        if character in ",;" and depth == 0:
            return True
    return False


def _same_at_once(gold: Any, answer: Any) -> bool:
    """Equal numbers, or equal when multiplied out: milliseconds, where math-verify simplifies."""
    from sympy import Expr, Float, Symbol, expand

    if not isinstance(gold, Expr) or not isinstance(answer, Expr) or gold.has(Float) or answer.has(Float):
        return False
    if _is_number(gold) and _is_number(answer):
        return gold.is_finite is not False and _close(gold, answer)
    if isinstance(gold, Symbol) or isinstance(answer, Symbol):
        return False
    return bool(gold.is_polynomial() and answer.is_polynomial() and expand(gold.doit() - answer.doit()) == 0)


def _equations(value: Any) -> list[Any]:
    from sympy import And, Eq

    if isinstance(value, Eq):
        return [value]
    if isinstance(value, And):
        return [part for part in value.args if isinstance(part, Eq)]
    return []


def _differ(gold: Any, answer: Any, percent: bool) -> bool:
    """Whether two values certainly differ: part by part, and in numbers to 30 digits."""
    from sympy import Expr, FiniteSet, Interval, MatrixBase

    if _equations(gold) and _equations(answer):
        return False  # math-verify compares both sides
    gold, answer = ((_equations(value) or [value])[-1] for value in (gold, answer))
    gold, answer = (value.rhs if _equations(value) else value for value in (gold, answer))
    if isinstance(gold, MatrixBase) and isinstance(answer, MatrixBase):
        return gold.shape != answer.shape or any(
            _differ(one, other, percent) for one, other in zip(gold.flat(), answer.flat(), strict=True)
        )
    if isinstance(gold, Interval) and isinstance(answer, Interval):
        return _differ(gold.start, answer.start, percent) or _differ(gold.end, answer.end, percent)
    if isinstance(gold, FiniteSet) and isinstance(answer, FiniteSet):
        return not all(
            any(not _differ(one, other, percent) for other in others)
            for ones, others in ((gold.args, answer.args), (answer.args, gold.args))
            for one in ones
        )
    one, other = _in_order(gold), _in_order(answer)
    if one and other:  # at most one is a list without order
        return len(one) != len(other) or any(_differ(a, b, percent) for a, b in zip(one, other, strict=True))
    if not isinstance(gold, Expr) or not isinstance(answer, Expr) or gold.is_Symbol or answer.is_Symbol:
        return False
    # A word is read as a product of letters; then symbols differ and only math-verify can tell.
    if gold.free_symbols != answer.free_symbols and not (gold.is_number or answer.is_number):
        return False
    return all(not _same_at(gold, answer, point, percent) for point in (0, 1))


def _in_order(value: Any) -> tuple[Any, ...]:
    """The parts of a tuple, a pair that was read as an interval, or a list, as they were written."""
    from sympy import FiniteSet, Interval, Tuple

    if isinstance(value, Interval):
        return value.start, value.end
    return tuple(getattr(value, "_unsorted_args", value.args)) if isinstance(value, Tuple | FiniteSet) else ()


def _same_at(gold: Any, answer: Any, point: int, percent: bool) -> bool:
    """Equal where every symbol is some positive fraction."""
    from sympy import Rational, default_sort_key

    symbols = sorted(gold.free_symbols | answer.free_symbols, key=default_sort_key)
    values = {symbol: Rational(17 + 6 * number + 4 * point, 13 + 2 * point) for number, symbol in enumerate(symbols)}
    one, other = gold.subs(values), answer.subs(values)
    if not _is_number(one) or not _is_number(other):
        return True  # not to be told
    return _close(one, other) or (percent and (_close(one * 100, other) or _close(one, other * 100)))


def _is_number(value: Any) -> bool:
    from sympy import Expr

    return isinstance(value, Expr) and bool(value.is_number)


def _close(one: Any, other: Any, *, relative: float = 2e-6) -> bool:
    """Equal, or equal to 25 digits where that cannot be told; to `relative`, and as many places, beside a decimal."""
    from sympy import Float

    one, other = one.doit(), other.doit()  # math-verify keeps 50 % as 50 * (1/100), unevaluated
    difference, first, second = (abs(value.evalf(30, maxn=200)) for value in (one - other, one, other))
    if not (difference.is_Float or difference.is_Rational) or not first.is_finite or not second.is_finite:
        return bool(one == other)
    size = max(first, second)
    if one.has(Float) or other.has(Float):
        return bool(difference <= max(relative * min(1, size), 1e-13 * size))
    return bool(one == other if one.is_Rational and other.is_Rational else difference <= 1e-25 * size)
