"""Wrong programs out of right ones: small seeded changes to the syntax tree. For `judge_flips.py`.

Run alone it prints how many mutants each program of `judge_solutions/` has.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Callable, Sequence
from pathlib import Path

COMPARISONS: Sequence[type[ast.cmpop]] = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)
OPERATORS: dict[type[ast.operator], Sequence[type[ast.operator]]] = {
    ast.Add: (ast.Sub, ast.Mult),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Add, ast.FloorDiv),
    ast.FloorDiv: (ast.Mult, ast.Mod),
    ast.Mod: (ast.FloorDiv, ast.Add),
    ast.LShift: (ast.RShift,),
}
Edit = Callable[[], None]


def mutants(source: str, count: int, rng: random.Random) -> list[str]:
    """Different programs with one change each; with two or three, once those are used up.

    The changes: another comparison or operator, a constant off by one, a condition turned round, another variable, a
    statement dropped. Whether a mutant still is right, only its tests say.
    """
    found: dict[str, None] = {}
    original = ast.unparse(ast.parse(source))
    sites = list(range(len(edits(ast.parse(source)))))
    rng.shuffle(sites)
    orders = [[site] for site in sites] + [rng.choices(sites, k=rng.choice((2, 3))) for _ in range(20 * count)]
    for order in orders:
        if len(found) >= count:
            break
        tree = ast.parse(source)
        for site, edit in enumerate(edits(tree)):
            if site in order:
                edit()
        try:
            text = ast.unparse(ast.fix_missing_locations(tree))
            compile(text, "solution.py", "exec")
        except (SyntaxError, ValueError):
            continue
        if text != original:
            found[text] = None
    return list(found)


def edits(tree: ast.Module) -> list[Edit]:
    """Every change that may be made to the tree, always in the same order."""
    names = sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not _is_read(node)})
    return [edit for node in ast.walk(tree) for edit in [*_expression_edits(node, names), *_drops(node)]]


def _expression_edits(node: ast.AST, names: Sequence[str]) -> list[Edit]:
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        return [_set(node, "ops", [other(), *node.ops[1:]]) for other in COMPARISONS if other is not type(node.ops[0])]
    if isinstance(node, ast.BinOp | ast.AugAssign):
        return [_set(node, "op", other()) for other in OPERATORS.get(type(node.op), ())]
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return [_set(node, "value", node.value + 1), _set(node, "value", node.value - 1)]
    if isinstance(node, ast.BoolOp):
        return [_set(node, "op", ast.And() if isinstance(node.op, ast.Or) else ast.Or())]
    if isinstance(node, ast.If | ast.While):
        return [_set(node, "test", ast.UnaryOp(ast.Not(), node.test))]
    if isinstance(node, ast.Name) and _is_read(node) and node.id in names:
        place = names.index(node.id)
        return [_set(node, "id", name) for name in sorted({names[place - 1], names[place - 2]} - {node.id})]
    return []


def _drops(node: ast.AST) -> list[Edit]:
    found: list[Edit] = []
    for name in ("body", "orelse"):
        block = getattr(node, name, None)
        if isinstance(block, list):
            for number, statement in enumerate(block):
                if not isinstance(statement, ast.Import | ast.ImportFrom | ast.FunctionDef):
                    found.append(_set(node, name, [*block[:number], ast.Pass(), *block[number + 1 :]]))
    return found


def _set(node: ast.AST, name: str, value: object) -> Edit:
    return lambda: setattr(node, name, value)


def _is_read(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Load)


def main() -> None:
    for path in sorted(Path(__file__).with_name("judge_solutions").glob("*.py")):
        source = path.read_text(encoding="utf-8")
        print(path.stem, len(edits(ast.parse(source))), len(mutants(source, 50, random.Random(0))))


if __name__ == "__main__":
    main()
