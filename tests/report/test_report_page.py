"""The page of whole, half-finished and damaged run folders."""

import base64
import hashlib
import json
import re
import time
from html.parser import HTMLParser

import pytest

from openmimo.cli import main
from openmimo.report.contents import read_contents
from openmimo.report.page import _parts, render

HOSTILE = "</pre><script>alert(1)</script><img src='http://evil.example/x.png'>"
ESTIMATE = {"mean": 0.25, "low": 0.1, "high": 0.4, "n": 12}
GAIN = {"mean": -0.05, "low": -0.1, "high": 0.02, "n": 24}
EVALUATION = {
    "temperature": 0.6,
    "samples": 4,
    "accuracy": {"math": ESTIMATE, "code": ESTIMATE},
    "pass_at_k": {"math": {"1": 0.25, "2": 0.4}, "code": {"1": 0.25, "2": 0.3}},
    "families": {"chain": 0.25},
    "mean_length": 88.0,
    "truncated": 0.04,
    "statuses": {"accepted": 12, "wrong_answer": 36},
}
GREEDY = {**EVALUATION, "temperature": 0.0, "samples": 1}
SUMMARY = {
    "recipe": "tiny",
    "seed": 3,
    "accuracy": {name: EVALUATION["accuracy"] for name in ("base", "sft", "rl")},
    "acceptance": {"1": 0.91},
    "gain": {"rl_over_sft": GAIN, "rl_over_sft_best": GAIN, "sft_best_temperature": 0.0},
    "evaluations": {"base": [EVALUATION], "sft": [EVALUATION, GREEDY], "rl": [EVALUATION, GREEDY]},
    "timing": {"data": {"seconds": 63.0}},
}
RUN = {
    "recipe": "tiny",
    "seed": 3,
    "config": {"rl": {"steps": 30}, "pretrain": {"stages": [{"until_tokens": 2400.0}]}},
}
PRETRAIN = [
    {"stage": "pretrain", "step": n, "tokens": 100 * (n + 1), "ce": 6.0 - n / 4, "mtp": 6.5 - n / 4,
     "learning_rate": 3e-3, "batch_sequences": 12, "grad_norm": 1.0, "train_stage": 1 + n // 8,
     "timing": {"step_s": 0.1}}
    for n in range(20)
]  # fmt: skip
RL = [
    {"stage": "rl", "step": n, "tokens": 9, "reward": 0.4, "accepted_math": 0.2, "valid_share": 0.5, "easy_pool": n,
     "timing": {"rollout_s": 4.0, "train_s": 2.0, "generate_s": 3.0, "idle": 0.2, "launched_groups": 5}}
    for n in range(3)
]  # fmt: skip
FUNNEL = {
    "stages": [
        {"name": "read", "rows_in": 1640, "kept": 1640, "dropped": {}, "samples": {"kept": [{"url": "u"}]}},
        {"name": "near-copies", "rows_in": 1640, "kept": 1572, "dropped": {"near duplicate": 68},
         "samples": {"near duplicate": [{"id": "d", "url": "", "detail": "kept e", "text": HOSTILE}]}},
    ]
}  # fmt: skip
STATE = {
    "data": {"documents": 1500, "sampled_down": 72, "tokens": {"web": 120_000}, "timing": {"seconds": 63.0}},
    "pretrain": {"epochs": {"web": 0.5}, "timing": {"seconds": 100.0}},
}


def put(folder, path, value):
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = value if isinstance(value, list) else [value]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def whole(folder):
    put(folder, "run.json", RUN)
    put(folder, "state.json", {**STATE, "sft": {"prepared": {"in": 9, "kept": 8, "incomplete": 1}}})
    put(folder, "metrics.jsonl", PRETRAIN + RL)
    put(folder, "summary.json", SUMMARY)
    put(folder, "data/documents/funnel.json", FUNNEL)
    problem = {"id": "p", "prompt": "2 + 2?", "kind": "math", "answer": "4", "tests": []}
    for name in ("base", "sft", "rl"):
        responses = [{"text": f"<think>{HOSTILE}</think>{HOSTILE}", "status": "accepted", "finish_reason": "stop"}] * 2
        put(folder, f"samples/{name}.jsonl", [{"problem": problem, "responses": responses}])
    learned = {"text": HOSTILE, "status": "wrong_answer", "finish_reason": "length", "reward": 0.25}
    put(folder, "samples/rl-000010.jsonl", [{"problem": problem, "responses": [learned, {**learned, "reward": None}]}])
    return folder


class Page(HTMLParser):
    """Tags that must balance, what loads, and the text, that of figures too."""

    VOID = {"meta", "br", "hr"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_startendtag(self, tag, attrs):
        raise AssertionError(tag)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_rollouts_that_rl_learned_from_stand_by_step_with_their_points(tmp_path):
    page = Page(render(whole(tmp_path)).read_text(encoding="utf-8"))
    after = page.text[page.text.index("Rollouts it learned from") :]
    assert "step 10: 1 groups" in after and after.count("0.25 points") == 1
    assert "cut at the length limit" in after[: after.index("0.25 points") + 80]


def test_a_whole_run_shows_every_part(tmp_path):
    path = render(whole(tmp_path))
    assert path == tmp_path / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    for words in (
        "recipe tiny, seed 3",
        "Held-out accuracy",
        "25.0 %",
        "10.0 % to 40.0 %",
        "−5.0",
        "−10.0 to +2.0, 24 problems",
        "Drafts of MTP layer 1 accepted",
        "91.0 %",
        "1 min 3 s",
        "stage 2",
        "Mean reward, points",
        "rollout: generating",
        "Accuracy at each temperature",
        "pass@k",
        "1,640",
        "near-copies dropped 68: near duplicate",
        "incomplete: 1",
        "120 k",
        "2 of 2 accepted",
        "answer 4",
    ):
        assert words in page.text, words
    assert sum(tag == "figure" for tag, _ in page.tags) >= 10


def test_the_page_loads_and_runs_nothing_but_its_own(tmp_path):
    text = render(whole(tmp_path)).read_text(encoding="utf-8")
    page = Page(text)
    forbidden = {"img", "iframe", "link", "object", "embed", "form", "base", "audio", "video", "image", "use", "svg"}
    for tag, attributes in page.tags:
        assert tag not in forbidden
        assert not any(name in ("src", "srcset", "style") or name.startswith("on") for name in attributes)
        assert attributes.get("href", "#").startswith("#")
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "unsafe" not in policy
    inside = re.findall(r"<(?:style|script)>(.*?)</(?:style|script)>", text, re.S)
    assert len(inside) == 3  # style, plotly, the script that calls it
    for part in inside:
        assert base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() in policy
    assert [attributes for tag, attributes in page.tags if tag == "script"].count({"type": "application/json"}) >= 10
    assert "url(" not in inside[0] and "@import" not in inside[0]
    assert HOSTILE in page.text  # shown as it was written


def test_the_page_stays_small_and_is_written_in_a_moment(tmp_path):
    whole(tmp_path)
    rows = [{**PRETRAIN[0], "step": n, "tokens": 100 * (n + 1), "ce": 6.0 - n % 7, "mtp": 6.0} for n in range(50_000)]
    put(tmp_path, "metrics.jsonl", rows)
    started = time.process_time()
    size = render(tmp_path).stat().st_size
    assert size < 6_000_000 and time.process_time() - started < 8.0


@pytest.mark.parametrize("parts", range(5))
def test_a_run_under_way_shows_what_it_has(parts, tmp_path):
    put(tmp_path, "run.json", RUN)
    if parts > 0:
        put(tmp_path, "state.json", {"data": STATE["data"]})
    if parts > 1:
        put(tmp_path, "metrics.jsonl", PRETRAIN[:1])
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"stage": "pretrain", "st')  # torn by a kill
    if parts > 2:
        put(tmp_path, "metrics.jsonl", PRETRAIN)
    if parts > 3:
        put(tmp_path, "state.json", STATE)
        put(tmp_path, "metrics.jsonl", PRETRAIN + RL[:1])
    page = Page(render(tmp_path).read_text(encoding="utf-8"))
    assert "This run is not finished" in page.text
    assert "pretrain 100 of 2.4 k tokens" in page.text if parts == 2 else True
    assert "rl step 1 of 30" in page.text if parts == 4 else True


def test_a_metric_that_is_not_finite_does_not_break_the_page(tmp_path):
    put(tmp_path, "metrics.jsonl", [{**PRETRAIN[0], "ce": float("nan"), "grad_norm": float("inf")}, *PRETRAIN[1:]])
    assert "not finite at 1" in render(tmp_path).read_text(encoding="utf-8")


def test_a_run_of_one_kind_of_problem_has_one_column(tmp_path):
    only = {name: {"math": ESTIMATE} for name in ("base", "sft")}
    put(tmp_path, "summary.json", {**SUMMARY, "accuracy": only, "evaluations": {}, "gain": {}, "acceptance": {}})
    page = Page(render(tmp_path).read_text(encoding="utf-8"))
    assert "12 maths" in page.text and "12 code" not in page.text


def test_a_folder_without_a_run_is_refused_in_one_line(tmp_path, capsys):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SystemExit) as end:
            main(["report", str(folder)])
        error = capsys.readouterr().err
        assert end.value.code == 2 and error.count("\n") == 1 and "is no run folder" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["run.json", "summary.json", "metrics.jsonl"])
def test_a_damaged_file_is_named(name, tmp_path):
    whole(tmp_path)
    (tmp_path / name).write_text("{]\n", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"{name} is (not JSON|damaged)"):
        render(tmp_path)


def nested(value, path=()):
    """The path of every key, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from nested(inner, (*path, key))
    elif isinstance(value, list):
        for n, inner in enumerate(value):
            yield from nested(inner, (*path, n))


def damaged(value, path, new):
    """A copy whose key at `path` is gone, or holds `new`."""
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    if new is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return copy


PROBLEM = {"id": "p", "prompt": "2 + 2?", "kind": "math", "answer": "4", "tests": []}
SAMPLE = {"problem": PROBLEM, "responses": [{"text": "4", "status": "accepted", "finish_reason": "stop"}]}
FILES = {
    "run.json": RUN,
    "state.json": {**STATE, "sft": {"prepared": {"in": 9, "kept": 8}}},
    "summary.json": SUMMARY,
    "data/documents/funnel.json": FUNNEL,
    "metrics.jsonl": RL[0],
    "samples/rl.jsonl": SAMPLE,
}


@pytest.mark.parametrize("new", [None, [7]])
@pytest.mark.parametrize("name", FILES)
def test_no_key_that_is_lacking_or_odd_breaks_the_page_unnamed(name, new, tmp_path):
    for path, value in FILES.items():
        put(tmp_path, path, value)
    for path in nested(FILES[name]):
        put(tmp_path, name, damaged(FILES[name], path, new))
        try:
            _parts(read_contents(tmp_path))
        except ValueError as error:
            assert name in str(error) and "\n" not in str(error), (path, error)
            assert str(path[-1]) in str(error) or new is not None, (path, error)


def test_rows_that_lack_a_key_are_counted_on_the_page(tmp_path):
    whole(tmp_path)
    put(tmp_path, "metrics.jsonl", [{"stage": "rl", "tokens": 9}, [], *RL, {**RL[0], "tokens": "many"}])
    put(tmp_path, "samples/rl.jsonl", [SAMPLE, {"problem": PROBLEM}, {**SAMPLE, "responses": [{"text": "4"}]}])
    text = Page(render(tmp_path).read_text(encoding="utf-8")).text
    assert "metrics.jsonl: 3 of 6 rows left out, the first lacks step." in text
    assert "samples/rl.jsonl: 2 of 3 rows left out, the first lacks responses." in text
    assert "Mean reward, points" in text


def test_a_summary_that_lacks_a_figure_is_named(tmp_path):
    put(tmp_path, "summary.json", {"accuracy": {"rl": {"math": {"mean": 0.5}}}})
    with pytest.raises(ValueError, match=r"summary.json lacks accuracy.rl.math.low"):
        render(tmp_path)
