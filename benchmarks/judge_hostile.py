"""Claim: hostile programs get the verdicts they should and harm nobody, though each harms a weaker judge.

    python benchmarks/judge_hostile.py [benchmarks/results/judge_hostile.json]

The programs of `tests/judge/hostile_programs/` meet our judge on this machine, with an honest program beside them and
one after them, and their weak judge (`tests/judge/weak_judges.py`) on a machine to lose (`tests/judge/throwaway.py`).
Then those of `../shared/judge/hostile`, where they are at hand, against the statuses of their manifest. About four
minutes on two cores.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "judge")]

import record  # noqa: E402
from attacks import Attack, Ours, harms, judge_ours, judge_weak, load_attacks, our_judge  # noqa: E402
from leftovers import control_groups, descendants, kernel_objects, strays  # noqa: E402

TARGETS = {"verdict", "others", "host"}
MANIFEST = ROOT.parent / "shared" / "judge" / "hostile" / "MANIFEST.tsv"
SHORT = {
    "AC": "accepted", "WA": "wrong_answer", "TLE": "time_limit", "MLE": "memory_limit",
    "OLE": "output_limit", "RE": "runtime_error",
}  # fmt: skip


def main() -> None:
    started_s = time.monotonic()
    attacks = load_attacks()
    before = kernel_objects()
    with our_judge() as ours:
        rows = [meet_ours(attack, ours) for attack in attacks]
        manifest = [meet_ours(attack, ours) for attack in given_attacks()]
        own, stray = descendants(os.getpid()), strays(os.getpid())
    left = {kind: count - before[kind] for kind, count in kernel_objects().items()}
    left |= {"processes": len(stray) + len(descendants(os.getpid())), "control groups": len(control_groups(own))}
    for row, attack in zip(rows, attacks, strict=True):
        row |= {"weak_judge": attack.weak_judge, "harm": attack.harm}
        row["weak_judge_harmed"] = attack.harm in harms(judge_weak(attack))
    by_mechanism: dict[str, set[str]] = {}
    for row in rows:
        if row["weak_judge_harmed"]:
            by_mechanism.setdefault(row["mechanism"], set()).add(row["target"])
    figures = {
        "wall_s": round(time.monotonic() - started_s, 1),
        "holds": all(row["ours_as_allowed"] and not row["ours_harmed"] for row in rows + manifest)
        and all(row["weak_judge_harmed"] for row in rows)
        and not any(left.values()),
        "figures": {
            "unit": "programs",
            "own programs": len(rows),
            "mechanisms with all three targets shown": sum(found >= TARGETS for found in by_mechanism.values()),
            "succeed against their weak judge": sum(row["weak_judge_harmed"] for row in rows),
            "harm ours": sum(bool(row["ours_harmed"]) for row in rows),
            "falsely accepted by ours": sum("accepted" in row["ours_harmed"] for row in rows),
            "another verdict than allowed": sum(not row["ours_as_allowed"] for row in rows),
            "given programs": len(manifest),
            "given programs with another verdict than their manifest's": sum(
                not row["ours_as_allowed"] for row in manifest
            ),
            "given programs that harm ours": sum(bool(row["ours_harmed"]) for row in manifest),
        },
        "left on the machine": left,
        "programs": rows,
        "given": manifest,
    }
    claim = "at least 12 mechanisms on 3 targets, each shown on a weaker judge; no harm to ours, no false accept"
    record.write(claim, "python benchmarks/judge_hostile.py", figures)


def meet_ours(attack: Attack, ours: Ours) -> dict[str, Any]:
    """What our judge makes of it, and it of our judge."""
    report = judge_ours(attack, ours)
    statuses = {status for statuses in report.attack for status in statuses}
    harm = harms(report)
    if "accepted" in attack.allowed:  # a control, which is right
        harm.discard("accepted")
    print(f"{attack.name}: {', '.join(sorted(statuses))}{f'; HARM {sorted(harm)}' if harm else ''}", file=sys.stderr)
    return {
        "mechanism": attack.mechanism,
        "target": attack.target,
        "language": attack.language,
        "ours": sorted(statuses),
        "ours_as_allowed": statuses <= attack.allowed,
        "ours_harmed": sorted(harm),
    }


def given_attacks() -> list[Attack]:
    """The programs beside the manifest; it allows them statuses in its short words."""
    if not MANIFEST.is_file():
        return []
    attacks = []
    for line in MANIFEST.read_text(encoding="utf-8").split("\n"):
        if not line.strip():
            continue
        name, expected = line.split("\t")[:2]
        words = expected.replace("(RE allowed)", "|RE").replace(" on every test", "").replace(",", "|").split("|")
        allowed = frozenset(SHORT[word.strip()] for word in words)
        source = (MANIFEST.parent / name).read_text(encoding="utf-8")
        attacks.append(Attack(name.removesuffix(".py"), "given", "stdin", "", allowed, "", source))
    return attacks


if __name__ == "__main__":
    main()
