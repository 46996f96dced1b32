"""The curves of `rl_curves.json` as pictures: mean over seeds, with a band from the least to the most.

    python benchmarks/rl_curves_chart.py

Writes docs/figures/rl_NAME.svg: reward schemes on hard code problems, what becomes of solved problems, where RL starts.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

ROOT = Path(__file__).parents[1]
PICTURES = {
    "schemes": (
        "Reward schemes, hard code problems",
        ("hard code, soft", "hard code, strict", "hard code, all or nothing"),
    ),
    "solved": ("Solved problems", ("soft", "solved dropped", "solved kept")),
    "starts": ("RL from SFT, from lite SFT, from the base model", ("soft", "lite", "zero")),
}
NAMES = {"soft": "soft reward, easy pool, from SFT", "lite": "from lite SFT", "zero": "from the base model"}


def main() -> None:
    variants = json.loads((ROOT / "benchmarks/results/rl_curves.json").read_text(encoding="utf-8"))["variants"]
    (ROOT / "docs/figures").mkdir(exist_ok=True)
    matplotlib.rcParams.update({"svg.hashsalt": "openmimo", "font.size": 9})
    for name, (title, shown) in PICTURES.items():
        figure, (curve, share) = pyplot.subplots(1, 2, figsize=(8, 3), width_ratios=(3, 1), layout="constrained")
        for variant in shown:
            found = variants[variant]
            steps, mean, least, most = zip(*found["curves"]["validation"], strict=True)
            label = f"{NAMES.get(variant, variant.removeprefix('hard code, '))} ({found['seeds']} seeds)"
            (line,) = curve.plot(steps, [100 * y for y in mean], label=label)
            curve.fill_between(
                steps, [100 * y for y in least], [100 * y for y in most], alpha=0.2, color=line.get_color()
            )
            valid = found["valid share of judged groups"]
            share.bar(label, 100 * valid["median"], color=line.get_color())
        curve.set(title=title, xlabel="RL steps", ylabel="held-out accuracy, %", ylim=(0, None))
        curve.legend(frameon=False)
        share.set(title="groups with a gradient, %", xticks=[])
        figure.savefig(ROOT / "docs/figures" / f"rl_{name}.svg", metadata={"Date": None})
        pyplot.close(figure)


if __name__ == "__main__":
    main()
