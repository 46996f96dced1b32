"""Claim: every MATH-500 gold answer is accepted against itself with exact match off, and 290 of 300 rewritings of them.

    python benchmarks/judge_math_rewritings.py [benchmarks/results/judge_math_rewritings.json]

A rewriting is made from a gold answer of ../shared/data/math/math500.jsonl by a rule that keeps its value, one
function a kind below, so that it is equivalent by construction. 300 are drawn in turn over the kinds, each kind from
golds spread over the file. math-verify alone, with both sides in `$...$`, is asked the same.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import record

from openmimo.judge.verifier import Verifier

ROOT = Path(__file__).resolve().parents[1]
GOLDS = ROOT.parent / "shared" / "data" / "math" / "math500.jsonl"
NUM_REWRITINGS = 300

INTEGER = re.compile(r"-?\d+")
FRACTION = re.compile(r"(-?)\\d?frac\s*(?:\{(\d+)\}\{(\d+)\}|(\d)(\d))")
DECIMAL = re.compile(r"\d*\.\d+")
ROOT_OF = re.compile(r"(\d*) ?\\sqrt\{(\d+)\}")
DEGREES = re.compile(r"(\d+)\^\\circ")
TUPLE = re.compile(r"(?:\\left)?\(([^()\[\]]*[^()\[\]\\])(?:\\right)?\)")
INTERVAL = re.compile(r"(?:\\left)?([(\[])\s*([^,()\[\]]*),([^,()\[\]]*?)\s*(?:\\right)?([)\]])")
COLUMN = re.compile(r"\\begin\{pmatrix\}(.*)\\end\{pmatrix\}")
TEXT = re.compile(r"\\text\{(\w+)\}")
CHOICE = re.compile(r"\\text\{\((\w)\)\}")
NUMERAL = re.compile(r"(\d+)_\{?(\d)\}?")
COMPLEX = re.compile(r"(-?\d+) ?([+-]) ?(\d*)i")
PLUS_MINUS = re.compile(r"(\d) \\pm (.*)")
POLYNOMIAL = re.compile(r"[-+0-9a-zA-Z^ ()]*[a-zA-Z][-+0-9a-zA-Z^ ()]*")
OF_PI = re.compile(r"(\d+) ?\\pi")
LIST = re.compile(r"-?\d+(, ?-?\d+)+")


def main() -> None:
    golds = [json.loads(line)["answer"] for line in GOLDS.read_text(encoding="utf-8").split("\n") if line]
    rewritings = draw(golds)
    with Verifier() as verifier:
        started_s = time.perf_counter()
        themselves = [verifier.compare(gold, gold)[0] for gold in golds]
        pairs_per_s = len(golds) / (time.perf_counter() - started_s)
        judged = [verifier.compare(gold, rewriting) for _, gold, rewriting in rewritings]
    alone = [peer(gold, rewriting) for _, gold, rewriting in rewritings]
    accepted = sum(status == "accepted" for status, _ in judged)
    kinds: dict[str, list[int]] = {}
    for (kind, _, _), (status, _) in zip(rewritings, judged, strict=True):
        kinds.setdefault(kind, [0, 0])[1] += 1
        kinds[kind][0] += status == "accepted"
    figures = {
        "themselves": {"unit": "gold answers", "accepted": themselves.count("accepted"), "of": len(golds)},
        "pairs_per_s": {
            "unit": "gold answers against themselves a second, one process",
            "value": round(pairs_per_s, 1),
        },
        "rewritings": {"unit": "rewritings", "accepted": accepted, "of": len(rewritings), "math-verify": sum(alone)},
        "kinds": {kind: f"{right} of {of}" for kind, (right, of) in kinds.items()},
        "missed": [
            {"kind": kind, "gold": gold, "rewriting": rewriting, "status": status, "detail": detail}
            for (kind, gold, rewriting), (status, detail) in zip(rewritings, judged, strict=True)
            if status != "accepted"
        ],
        "table": [" | ".join(row) for row in rewritings],
    }
    record.write(
        "500 of 500 gold answers accepted against themselves without exact match; 290 of 300 rewritings",
        "python benchmarks/judge_math_rewritings.py",
        figures,
    )


def draw(golds: list[str], num: int = NUM_REWRITINGS) -> list[tuple[str, str, str]]:
    """(kind, gold, rewriting): every kind in turn gives one, until there are enough."""
    unique = list(dict.fromkeys(golds))
    sources = []
    for number, rule in enumerate(KINDS):
        start = number * 37 % len(unique)  # so that kinds do not all meet the same golds
        sources.append(_rewrite(rule, unique[start:] + unique[:start]))
    drawn: list[tuple[str, str, str]] = []
    while sources and len(drawn) < num:
        for source in list(sources):
            row = next(source, None)
            if row is None:
                sources.remove(source)
            elif len(drawn) < num:
                drawn.append(row)
    return drawn


def _rewrite(rule: Callable[[str], str | None], golds: list[str]) -> Iterator[tuple[str, str, str]]:
    for gold in golds:
        rewriting = rule(gold)
        if rewriting and rewriting != gold:
            yield (rule.__doc__ or "").rstrip("."), gold, rewriting


def _integer(gold: str) -> int | None:
    return int(gold) if INTEGER.fullmatch(gold) else None


def _fraction(gold: str) -> Fraction | None:
    found = FRACTION.fullmatch(gold)
    if not found:
        return None
    return Fraction(int(found[1] + (found[2] or found[4])), int(found[3] or found[5]))


def _decimal(value: Fraction) -> str | None:
    """The finite decimal, if there is one."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return None if rest > 1 else f"{Decimal(value.numerator) / Decimal(value.denominator):f}"


def _tuple(gold: str) -> list[str] | None:
    found = TUPLE.fullmatch(gold)
    parts = [part.removesuffix("\\right").strip() for part in found[1].split(",")] if found else []
    return parts if len(parts) > 1 and not any("infty" in part for part in parts) else None


def point_zero(gold: str) -> str | None:
    """An integer as a decimal."""
    return f"{gold}.0" if _integer(gold) is not None else None


def doubled(gold: str) -> str | None:
    """An integer as a fraction not reduced."""
    value = _integer(gold)
    return None if value is None else rf"\frac{{{3 * value}}}{{3}}"


def named(gold: str) -> str | None:
    """A number with its name."""
    return f"n = {gold}" if _integer(gold) is not None or _fraction(gold) else None


def worded(gold: str) -> str | None:
    """A number with words before it."""
    return rf"\text{{The answer is }} {gold}" if _integer(gold) is not None else None


def with_unit(gold: str) -> str | None:
    """A number with a unit that the gold leaves out."""
    return rf"{gold} \text{{ cm}}" if _integer(gold) is not None else None


def with_area(gold: str) -> str | None:
    """A number with a square unit that the gold leaves out."""
    return rf"{gold}\,\mathrm{{cm}}^2" if _integer(gold) is not None else None


def with_thing(gold: str) -> str | None:
    """A number with the thing it counts."""
    return rf"{gold} \text{{ ways}}" if _integer(gold) is not None else None


def thousands_braced(gold: str) -> str | None:
    """Thousands apart by {,}."""
    value = _integer(gold)
    return None if value is None or value < 1000 else f"{value:,}".replace(",", "{,}")


def thousands_space(gold: str) -> str | None:
    """Thousands apart by a thin space."""
    value = _integer(gold)
    return None if value is None or value < 1000 else f"{value:,}".replace(",", r"\,")


def thousands_comma(gold: str) -> str | None:
    """Thousands apart by a comma, or not."""
    value = _integer(gold.replace(",", "").replace(r"\!", "").replace(" ", ""))
    if value is None or value < 1000 or "_" in gold:
        return None
    return str(value) if "," in gold else f"{value:,}"


def summed(gold: str) -> str | None:
    """An integer as a sum."""
    value = _integer(gold)
    return None if value is None else f"{value - 7} + 7"


def factored(gold: str) -> str | None:
    """An integer as a product."""
    value = _integer(gold)
    if value is None or value < 4:
        return None
    factor = next((factor for factor in range(2, value) if value % factor == 0), None)
    return None if factor is None else rf"{value // factor} \times {factor}"


def scientific(gold: str) -> str | None:
    """A round integer in scientific notation."""
    value = _integer(gold)
    if not value or value % 100:
        return None
    digits = str(value).rstrip("0")
    return rf"{digits[0]}.{digits[1:] or 0} \times 10^{{{len(str(value)) - 1}}}"


def power_of_two(gold: str) -> str | None:
    """A square as a power."""
    value = _integer(gold)
    root = round(value**0.5) if value and value > 3 else 0
    return f"{root}^2" if root and root * root == value else None


def equation_of(gold: str) -> str | None:
    """An integer behind the calculation that gives it."""
    value = _integer(gold)
    return None if value is None else f"{value + 4} - 4 = {value}"


def root_of_square(gold: str) -> str | None:
    """A positive integer as a root."""
    value = _integer(gold)
    return rf"\sqrt{{{value * value}}}" if value and value > 0 else None


def bold(gold: str) -> str | None:
    """A number in bold."""
    return rf"\mathbf{{{gold}}}" if _integer(gold) is not None else None


def ended(gold: str) -> str | None:
    """A full stop and dollars."""
    return f"${gold}$." if _integer(gold) is not None or _fraction(gold) else None


def slash(gold: str) -> str | None:
    """A fraction with a slash."""
    value = _fraction(gold)
    return f"{value.numerator}/{value.denominator}" if value else None


def display(gold: str) -> str | None:
    """dfrac for frac."""
    value = _fraction(gold)
    return rf"\dfrac{{{value.numerator}}}{{{value.denominator}}}" if value else None


def text_fraction(gold: str) -> str | None:
    """tfrac for frac, sign before it."""
    value = _fraction(gold)
    if not value:
        return None
    return ("-" if value < 0 else "") + rf"\tfrac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def finite_decimal(gold: str) -> str | None:
    """A fraction as a finite decimal."""
    value = _fraction(gold)
    return _decimal(value) if value else None


def unreduced(gold: str) -> str | None:
    """A fraction not reduced."""
    value = _fraction(gold)
    return rf"\frac{{{6 * value.numerator}}}{{{6 * value.denominator}}}" if value else None


def mixed(gold: str) -> str | None:
    """A mixed number."""
    value = _fraction(gold)
    if not value or value < 1:
        return None
    whole = value.numerator // value.denominator
    return rf"{whole}\frac{{{value.numerator - whole * value.denominator}}}{{{value.denominator}}}"


def percent(gold: str) -> str | None:
    """A fraction as a percentage."""
    value = _fraction(gold)
    decimal = _decimal(value * 100) if value and value < 1 else None
    return decimal + r"\%" if decimal else None


def negative_power(gold: str) -> str | None:
    """A fraction with a negative power."""
    value = _fraction(gold)
    return rf"{value.numerator} \cdot {value.denominator}^{{-1}}" if value else None


def divided(gold: str) -> str | None:
    """A fraction as a division."""
    value = _fraction(gold)
    return rf"{value.numerator} \div {value.denominator}" if value and value > 0 else None


def six_digits(gold: str) -> str | None:
    """A fraction to nine places."""
    value = _fraction(gold)
    return f"{float(value):.9f}" if value and not _decimal(value) else None


def fraction_of_decimal(gold: str) -> str | None:
    """A decimal as a fraction."""
    if not DECIMAL.fullmatch(gold):
        return None
    value = Fraction("0" + gold if gold.startswith(".") else gold)
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def leading_zero(gold: str) -> str | None:
    """A decimal with zeros more."""
    return ("0" if gold.startswith(".") else "") + gold + "0" if DECIMAL.fullmatch(gold) else None


def half_power(gold: str) -> str | None:
    """A root as the power 1/2."""
    found = ROOT_OF.fullmatch(gold)
    return rf"{found[1] or 1} \cdot {found[2]}^{{1/2}}" if found else None


def half_power_alone(gold: str) -> str | None:
    """A root as the power frac 1 2, behind its factor."""
    found = ROOT_OF.fullmatch(gold)
    return rf"{found[2]}^{{\frac{{1}}{{2}}}}" + (rf" \cdot {found[1]}" if found[1] else "") if found else None


def under_root(gold: str) -> str | None:
    """A root with its factor inside."""
    found = ROOT_OF.fullmatch(gold)
    return rf"\sqrt{{{int(found[1]) ** 2 * int(found[2])}}}" if found and found[1] else None


def root_first(gold: str) -> str | None:
    """A root before its factor."""
    found = ROOT_OF.fullmatch(gold)
    return rf"\sqrt{{{found[2]}}} \cdot {found[1]}" if found and found[1] else None


def rationalised(gold: str) -> str | None:
    """A root in the denominator."""
    found = re.fullmatch(r"\\frac\{(\d*)\\sqrt\{(\d+)\}\}\{(\d+)\}", gold)
    if not found:
        return None
    return rf"\frac{{{int(found[1] or 1) * int(found[2])}}}{{{found[3]}\sqrt{{{found[2]}}}}}"


def no_degree_sign(gold: str) -> str | None:
    """Degrees without the sign."""
    found = DEGREES.fullmatch(gold)
    return found[1] if found else None


def degree_word(gold: str) -> str | None:
    """Degrees as a word."""
    found = DEGREES.fullmatch(gold)
    return rf"{found[1]} \text{{ degrees}}" if found else None


def degree_braces(gold: str) -> str | None:
    """The degree sign in braces."""
    found = DEGREES.fullmatch(gold)
    return rf"{found[1]}^{{\circ}}" if found else None


def degree_named(gold: str) -> str | None:
    """Degrees with the angle's name."""
    found = DEGREES.fullmatch(gold)
    return rf"\angle ABC = {gold}" if found else None


def tuple_spacing(gold: str) -> str | None:
    """A tuple in other brackets and spaces."""
    parts = _tuple(gold)
    return r"\left( " + r" ,\, ".join(parts) + r" \right)" if parts else None


def tuple_named(gold: str) -> str | None:
    """A tuple with its name."""
    parts = _tuple(gold)
    return f"({','.join('xyzw'[: len(parts)])}) = ({', '.join(parts)})" if parts and len(parts) < 5 else None


def tuple_fractions(gold: str) -> str | None:
    """A tuple with an integer as a fraction."""
    parts = _tuple(gold)
    if not parts or _integer(parts[0]) is None:
        return None
    return "(" + ", ".join([rf"\frac{{{2 * int(parts[0])}}}{{2}}", *parts[1:]]) + ")"


def interval_spacing(gold: str) -> str | None:
    """An interval in other brackets."""
    found = INTERVAL.fullmatch(gold)
    return rf"\left{found[1]}{found[2]},\ {found[3]}\right{found[4]}" if found and _is_interval(gold) else None


def element(gold: str) -> str | None:
    """An interval with its variable, or without."""
    if gold.startswith(r"x \in"):
        return gold.removeprefix(r"x \in").strip()
    return rf"x \in {gold}" if _is_interval(gold) else None


def inequality(gold: str) -> str | None:
    """An interval as an inequality."""
    found = INTERVAL.fullmatch(gold.removeprefix(r"x \in").strip())
    if not found or not _is_interval(gold):
        return None
    left, right = ("<" if found[1] == "(" else r"\le"), ("<" if found[4] == ")" else r"\le")
    if "infty" in found[2]:
        return f"x {right} {found[3]}"
    if "infty" in found[3]:
        return f"x {'>' if left == '<' else left.replace('le', 'ge')} {found[2]}"
    return f"{found[2]} {left} x {right} {found[3]}"


def _is_interval(gold: str) -> bool:
    return bool(INTERVAL.fullmatch(gold.removeprefix(r"x \in").strip())) and bool(re.search(r"infty|[\[\]]", gold))


def union_order(gold: str) -> str | None:
    """A union in the other order."""
    parts = gold.split(r"\cup")
    return r" \cup ".join(part.strip() for part in reversed(parts)) if len(parts) == 2 else None


def brackets_of_column(gold: str) -> str | None:
    """A matrix in square brackets."""
    return gold.replace("pmatrix", "bmatrix") if COLUMN.fullmatch(gold) else None


def column_fractions(gold: str) -> str | None:
    """A matrix with its fractions built up."""
    found = COLUMN.fullmatch(gold)
    rewritten = re.sub(r"(-?)(\d+)/(\d+)", r"\1\\frac{\2}{\3}", gold)
    return rewritten if found and rewritten != gold else None


def column_decimals(gold: str) -> str | None:
    """A matrix with decimals."""
    return re.sub(r"(-?\d+)(?=[ \\])", r"\1.0", gold) if COLUMN.fullmatch(gold) and "/" not in gold else None


def bare_word(gold: str) -> str | None:
    """A word without its command."""
    found = TEXT.fullmatch(gold)
    return found[1] if found else None


def bold_word(gold: str) -> str | None:
    """A word in bold."""
    found = TEXT.fullmatch(gold)
    return rf"\textbf{{{found[1]}}}" if found else None


def spaced_word(gold: str) -> str | None:
    """A word with spaces and a capital."""
    found = TEXT.fullmatch(gold)
    return rf"\text{{ {found[1].capitalize()} }}" if found else None


def roman_word(gold: str) -> str | None:
    """A word in roman."""
    found = TEXT.fullmatch(gold)
    return rf"\mathrm{{{found[1]}}}" if found else None


def bare_choice(gold: str) -> str | None:
    """A choice without brackets."""
    found = CHOICE.fullmatch(gold)
    return rf"\text{{{found[1]}}}" if found else None


def letter(gold: str) -> str | None:
    """A choice as a letter."""
    found = CHOICE.fullmatch(gold)
    return found[1] if found else None


def bold_choice(gold: str) -> str | None:
    """A choice in bold."""
    found = CHOICE.fullmatch(gold)
    return rf"\textbf{{({found[1]})}}" if found else None


def base_braces(gold: str) -> str | None:
    """A numeral with its base in braces, or not."""
    found = NUMERAL.fullmatch(gold)
    return (f"{found[1]}_{found[2]}" if "{" in gold else f"{found[1]}_{{{found[2]}}}") if found else None


def base_word(gold: str) -> str | None:
    """A numeral with its base as a word."""
    words = {"5": "five", "6": "six", "8": "eight", "9": "nine"}
    found = NUMERAL.fullmatch(gold)
    return rf"{found[1]}_{{\text{{{words[found[2]]}}}}}" if found else None


def complex_order(gold: str) -> str | None:
    """A complex number, imaginary part first."""
    found = COMPLEX.fullmatch(gold)
    return (
        f"{'-' if found[2] == '-' else ''}{found[3]}i {'' if found[1][0] == '-' else '+ '}{found[1]}" if found else None
    )


def complex_product(gold: str) -> str | None:
    """A complex number with a written product."""
    found = COMPLEX.fullmatch(gold)
    return rf"{found[1]} {found[2]} i \cdot {found[3] or 1}" if found else None


def both_signs(gold: str) -> str | None:
    """Plus-minus written out."""
    found = PLUS_MINUS.fullmatch(gold)
    return f"{found[1]} + {found[2]}, {found[1]} - {found[2]}" if found else None


def both_signs_with_and(gold: str) -> str | None:
    """Plus-minus written out with a word."""
    found = PLUS_MINUS.fullmatch(gold)
    return rf"{found[1]} - {found[2]} \text{{ and }} {found[1]} + {found[2]}" if found else None


def list_order(gold: str) -> str | None:
    """A list in the other order."""
    return (
        ", ".join(reversed(re.split(", ?", gold))) if LIST.fullmatch(gold) and not re.search(r",\d{3}", gold) else None
    )


def list_with_and(gold: str) -> str | None:
    """A list with a word."""
    if not LIST.fullmatch(gold) or re.search(r",\d{3}", gold):
        return None
    *first, last = re.split(", ?", gold)
    return rf"{', '.join(first)} \text{{ and }} {last}"


def list_as_set(gold: str) -> str | None:
    """A list in braces."""
    return rf"\{{{gold}\}}" if LIST.fullmatch(gold) and not re.search(r",\d{3}", gold) else None


def list_named(gold: str) -> str | None:
    """A list of solutions with their name."""
    if not LIST.fullmatch(gold) or re.search(r",\d{3}", gold):
        return None
    return ", ".join(f"x={part}" for part in re.split(", ?", gold))


def set_order(gold: str) -> str | None:
    """A set in the other order."""
    return r"\{" + ", ".join(reversed(gold[2:-2].split(","))) + r"\}" if gold.startswith(r"\{") else None


def _polynomial(gold: str) -> Any:
    from sympy import Poly, expand
    from sympy.parsing.sympy_parser import implicit_multiplication, parse_expr, standard_transformations

    if not POLYNOMIAL.fullmatch(gold) or re.search(r"[a-zA-Z]{2}|^[A-Z]$|i", gold) or len(gold) < 3:
        return None
    value = parse_expr(gold.replace("^", "**"), transformations=(*standard_transformations, implicit_multiplication))
    return value if value.free_symbols and Poly(expand(value)) else None


def _written(value: Any) -> str:
    from sympy import latex

    return str(latex(value))


def polynomial_factored(gold: str) -> str | None:
    """A polynomial factored by SymPy."""
    from sympy import factor

    value = _polynomial(gold)
    return None if value is None else _written(factor(value))


def polynomial_expanded(gold: str) -> str | None:
    """A polynomial expanded by SymPy, terms turned round."""
    from sympy import expand

    value = _polynomial(gold)
    if value is None:
        return None
    return " + ".join(f"({_written(term)})" for term in reversed(expand(value).as_ordered_terms()))


def polynomial_horner(gold: str) -> str | None:
    """A polynomial in Horner's form."""
    from sympy import expand, horner

    value = _polynomial(gold)
    return None if value is None or len(value.free_symbols) != 1 else _written(horner(expand(value)))


def pi_first(gold: str) -> str | None:
    """A multiple of pi, pi first."""
    found = OF_PI.fullmatch(gold)
    return rf"\pi \cdot {found[1]}" if found else None


def pi_halves(gold: str) -> str | None:
    """A multiple of pi as a fraction."""
    found = OF_PI.fullmatch(gold)
    return rf"\frac{{{2 * int(found[1])}\pi}}{{2}}" if found else None


def unit_dropped(gold: str) -> str | None:
    """A unit of the gold's left out."""
    found = re.fullmatch(r"([0-9.]+|\\frac\{\d+\}\d) ?\\(?:text|mbox)\{[^{}]*\}(\^2)?", gold)
    return found[1] if found else None


def unit_in_text(gold: str) -> str | None:
    """A unit of the gold's by another command."""
    found = re.fullmatch(r"(.*)\\(text|mbox)\{([^{}()]*)\}(\^2)?", gold)
    if not found or not found[1]:
        return None
    return rf"{found[1].strip()}\ \mathrm{{{found[3].strip()}}}{found[4] or ''}"


def dollars_dropped(gold: str) -> str | None:
    """A sum of money without its sign."""
    return gold.removeprefix(r"\$").replace(r"\!", "") if gold.startswith(r"\$") else None


def dollars_in_words(gold: str) -> str | None:
    """A sum of money in dollars."""
    return rf"{gold[2:]} \text{{ dollars}}" if gold.startswith(r"\$") else None


def equation_turned(gold: str) -> str | None:
    """An equation with its sides exchanged."""
    sides = [side.strip() for side in gold.split("=")]
    return f"{sides[1]} = {sides[0]}" if len(sides) == 2 else None


def equation_solved(gold: str) -> str | None:
    """A function's equation without its left side."""
    return gold.split("=")[1].strip() if re.match("[xy] ?=", gold) else None


def spaced(gold: str) -> str | None:
    """Spaces of LaTeX's."""
    rewritten = re.sub(r" ?([+=]|(?<=[^(,^{]) ?-) ?", r"\\,\1\\;", gold)
    return rewritten if rewritten != gold and not re.search(r"text|\\\\|^.?-", gold) else None


KINDS: list[Callable[[str], str | None]] = [
    point_zero, doubled, named, worded, with_unit, with_area, with_thing, thousands_braced, thousands_space,
    thousands_comma, summed, factored, scientific, power_of_two, equation_of, root_of_square, bold, ended, slash,
    display, text_fraction, finite_decimal, unreduced, mixed, percent, negative_power, divided, six_digits,
    fraction_of_decimal, leading_zero, half_power, half_power_alone, under_root, root_first, rationalised,
    no_degree_sign, degree_word, degree_braces, degree_named, tuple_spacing, tuple_named, tuple_fractions,
    interval_spacing, element, inequality, union_order, brackets_of_column, column_fractions, column_decimals,
    bare_word, bold_word, spaced_word, roman_word, bare_choice, letter, bold_choice, base_braces, base_word,
    complex_order, complex_product, both_signs, both_signs_with_and, list_order, list_with_and, list_as_set,
    list_named, set_order, polynomial_factored, polynomial_expanded, polynomial_horner, pi_first, pi_halves,
    unit_dropped, unit_in_text, dollars_dropped, dollars_in_words, equation_turned, equation_solved, spaced,
]  # fmt: skip


def peer(gold: str, answer: str) -> bool:
    """What math-verify says alone."""
    from math_verify import parse, verify

    return bool(verify(parse(f"${gold}$"), parse(f"${answer}$")))


if __name__ == "__main__":
    main()
