"""The three preparation steps of SFT data, each rule on rows made by hand, each drop counted (MiMo 3.1)."""

import json
from pathlib import Path

import pytest

from openmimo.data.chat import Chat
from openmimo.data.decontaminate import build_screen
from openmimo.data.sft import NUM_SHOWN, incomplete, mixed_language, prepare, prepare_to, query_key, samples
from openmimo.data.tokenizer import train_tokenizer

NOTHING = build_screen([])
TRAIN = "A train leaves the station at noon and travels east at sixty miles an hour until it stops at four."


def talk(query: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": query}, {"role": "assistant", "content": answer}]


def test_each_step_counts_what_it_drops() -> None:
    rows = [
        talk(TRAIN, "\\boxed{240}"),
        talk(f"Please solve: {TRAIN} Thanks!", "\\boxed{240}"),
        talk("What is two and two?", "It is 四，因为二加二等于四"),
        talk("What is two and two?", "<think> two and"),
        *[talk("What is two and two?", f"\\boxed{{{n}}}") for n in range(10)],
        talk("What is one and one?", "2"),
    ]
    prepared = prepare(rows, build_screen([TRAIN]))
    assert prepared.counts == {
        "in": 15, "kept": 9, "contaminated": 2, "mixed_language": 1, "incomplete": 1, "too_many_responses": 2,
    }  # fmt: skip
    assert prepared.conversations[:8] == tuple(tuple(row) for row in rows[4:12])
    assert prepared.counts["in"] == sum(v for k, v in prepared.counts.items() if k != "in")


def test_eight_is_the_papers_limit_and_it_is_per_query() -> None:
    rows = [talk(q, f"answer {n}") for n in range(9) for q in ("first", "second")]
    assert prepare(rows, NOTHING).counts["kept"] == 16
    assert prepare(rows, NOTHING, max_responses=1).counts["kept"] == 2
    with pytest.raises(ValueError, match="max_responses must be at least 1, got 0"):
        prepare(rows, NOTHING, max_responses=0)


def test_a_query_is_the_same_in_other_case_and_spacing_and_under_another_system_message() -> None:
    assert query_key(talk("What is  2?", "2")) == query_key(talk(" what is\n2? ", "two"))
    assert query_key(talk("What is 2?", "2")) == query_key(
        [{"role": "system", "content": "s"}, *talk("What is 2?", "")]
    )
    assert query_key(talk("What is 2?", "2")) != query_key(talk("What is 3?", "2"))
    assert query_key([*talk("a", "x"), *talk("b", "y")]) != query_key(talk("a b", "y"))


def test_a_copy_that_only_a_later_turn_asks_for_is_found_even_if_it_is_short() -> None:
    rows = [[*talk("Hello", "Hello!"), *talk("What is\n2 + 2?", "4")], [*talk("Hello", "Hello!"), *talk("Bye", "Bye!")]]
    assert prepare(rows, build_screen(["What is 2 + 2?"])).counts == {"in": 2, "kept": 1, "contaminated": 1}


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("<think> so </think> \\boxed{\\frac{1}{2}}", ""),
        ("plain", ""),
        ("```python\nx = {1}\n```", ""),
        ("<think> open { brace </think> \\boxed{2}", ""),
        ("So $f = \\left\\{ 1 \\right.$ and \\boxed{2}", ""),
        ("\\boxed{\\{1, 2\\}}", ""),
        ("\\[ x \\\\[2pt] y \\] and \\begin{cases} 1 \\end{cases}", ""),
        ("Escape it: `\\(` opens a group.", ""),
        ("```sh\necho \\(\n```", ""),
        ("=", ""),
        ("", "nothing is said"),
        ("  \n", "nothing is said"),
        ("<think> so", "<think> and </think> do not pair"),
        ("<think> so </think>", "nothing is said after </think>"),
        ("so </think> 4", "<think> and </think> do not pair"),
        ("```python\nx = 1", "a code fence is open"),
        ("The answer is \\boxed{\\frac{1}{2}", "a \\boxed{ is open"),
        ("The answer is \\boxed{\\{1, 2\\}", "a \\boxed{ is open"),
        ("It is \\[ x + y", "\\[ and \\] do not pair"),
        ("\\begin{align} x", "\\begin{ and \\end{ do not pair"),
        ("First we add,", "it ends with ','"),
        ("so x =", "it ends with '='"),
    ],
)
def test_a_response_is_complete_when_everything_opened_is_closed(answer: str, why: str) -> None:
    assert incomplete(answer) == why


def test_every_turn_must_be_complete_and_a_response_cut_by_length_is_not() -> None:
    rows = [[*talk("a", "```"), *talk("b", "c")], talk("a", "b"), [{"role": "user", "content": "hi"}], []]
    assert prepare(rows, NOTHING).counts == {"in": 4, "kept": 1, "incomplete": 3}


@pytest.mark.parametrize(
    ("query", "answer", "script"),
    [
        ("What is 2 + 2?", "答案是四", "CJK"),
        ("What is 2 + 2?", "It is four, то есть чётное число", "CYRILLIC"),
        ("二加二是多少？", "答案は四です", "HIRAGANA"),
        ("二加二是多少？", "答案是四, as one says", ""),
        ("これは何ですか", "カタカナとひらがなと漢字、々もある", ""),
        ("What is the angle?", "It is θ = π/2, so cos θ = 0", ""),
        ("Which set?", "𝑥 ∈ ℝ, ℓ = 5 µm, ａｂｃ, 2ⁿ", ""),
        ("Write a program", "Here:\n```python\nprint('привет, как дела')\n```", ""),
        ("Who wrote it?", "Fyodor Dostoevsky, in Russian Достоевский" + " and more of it" * 30, ""),
        ("Say hello in Chinese.", "你好", ""),
        ("Translate into Russian: good day", "добрый день", ""),
        ("Translate into Russian: good day", "你好", "CJK"),
        ("2 + 2", "4", ""),
    ],
)
def test_a_script_that_the_query_neither_uses_nor_asks_for_is_mixed_language(
    query: str, answer: str, script: str
) -> None:
    found = mixed_language(query, [answer])
    assert (f"{script} above all" in found) if script else found == ""
    assert mixed_language(query, ["4", answer]) == found, "any of the turns"


def test_up_to_one_letter_in_twenty_may_be_foreign() -> None:
    assert not mixed_language("q", ["a" * 19 + "四"])
    assert mixed_language("q", ["a" * 18 + "四"]).startswith("5 % of the letters")


def written(path: Path, *rows: object) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r, ensure_ascii=False)) + "\n" for r in rows))
    return path


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_files_are_prepared_with_every_drop_counted_and_shown(tmp_path: Path) -> None:
    near = TRAIN.replace("noon and travels east", "noon, goes west")
    source = written(
        tmp_path / "a.jsonl",
        {"messages": talk(TRAIN, "240"), "id": 1},
        {"messages": talk(near, "240"), "id": 2},
        {"conversations": [{"from": "human", "value": "1\u20282"}, {"from": "gpt", "value": "3"}], "id": 3},
        "{nope",
        {"messages": talk("a", "b"), "finish_reason": "length"},
        *[{"messages": talk("c", f"{n}")} for n in range(9)],
    )
    bench = written(tmp_path / "bench.jsonl", {"problem": TRAIN})
    out = tmp_path / "out" / "sft.jsonl"
    found = prepare_to([source], out, against=[bench])
    assert found["in"] == 14 and found["kept"] == 10 and found["queries"] == 5
    assert found["in"] == found["kept"] + sum(found["dropped"].values())
    assert {k: v for k, v in found["dropped"].items() if v} == {
        "not_json": 1, "contaminated": 1, "incomplete": 1, "too_many_responses": 1,
    }  # fmt: skip
    assert found["first"]["not_json"] == f"{source}:4" and found["first"]["too_many_responses"] == f"{source}:14"
    assert found["overlaps"] == {"16": 1, "13": 1, "8": 2} and found["candidates"] == 1
    assert found["against"] == [{"file": str(bench), "field": "problem", "texts": 1}]
    kept = rows_of(out)
    assert kept[0] == {"messages": talk(near, "240"), "id": 2}, "a candidate is reported, not dropped"
    assert kept[1] == {"messages": talk("1\u20282", "3"), "id": 3}, "ShareGPT comes out as messages, its keys kept"
    dropped = rows_of(tmp_path / "out" / "sft.dropped.jsonl")
    assert [(row["reason"], row["line"]) for row in dropped] == [
        ("not_json", 4), ("contaminated", 1), ("incomplete", 5), ("too_many_responses", 14),
    ]  # fmt: skip
    assert dropped[0]["text"] == "{nope" and dropped[1]["row"]["id"] == 1
    assert dropped[1]["detail"] == "a train leaves the station at noon and travels east at sixty miles an hour until"
    (candidate,) = rows_of(tmp_path / "out" / "sft.candidates.jsonl")
    assert (candidate["line"], candidate["ngram"], candidate["num_items"]) == (2, 8, 1)
    assert candidate["query"] == near and candidate["benchmark"] == TRAIN and candidate["matched"] in near.lower()
    assert candidate["share"] == 0.5  # ten of twenty words
    first = {path.name: path.read_bytes() for path in out.parent.iterdir()}
    assert sorted(first) == ["sft.candidates.jsonl", "sft.dropped.jsonl", "sft.jsonl"]
    assert prepare_to([source], out, against=[bench]) == found
    assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == first


def test_a_prepared_file_comes_through_unchanged(tmp_path: Path) -> None:
    source = written(tmp_path / "a.jsonl", *[{"messages": talk("c", f"{n}")} for n in range(9)])
    prepare_to([source], tmp_path / "b.jsonl")
    found = prepare_to([tmp_path / "b.jsonl"], tmp_path / "c.jsonl")
    assert found["in"] == found["kept"] == 8
    assert (tmp_path / "b.jsonl").read_bytes() == (tmp_path / "c.jsonl").read_bytes()


def test_of_many_drops_a_few_from_all_over_the_input_are_kept(tmp_path: Path) -> None:
    source = written(tmp_path / "a.jsonl", {"messages": talk("a", "b")}, *["{nope"] * 1000)
    assert prepare_to([source], tmp_path / "b.jsonl")["dropped"]["not_json"] == 1000
    lines = [row["line"] for row in rows_of(tmp_path / "b.dropped.jsonl")]
    assert len(lines) == NUM_SHOWN and lines == sorted(lines) and lines[-1] > 500


def test_another_run_length_decides_where_it_is_asked_for(tmp_path: Path) -> None:
    bench = tmp_path / "bench.txt"
    bench.write_text(f"{TRAIN}\n\n")
    near = TRAIN.replace("noon and travels east", "noon, goes west")
    source = written(tmp_path / "a.jsonl", {"messages": talk(near, "240")}, {"messages": talk("b", "c")})
    found = prepare_to([source], tmp_path / "b.jsonl", against=[bench], ngram=8)
    assert (found["kept"], found["dropped"]["contaminated"], found["candidates"]) == (1, 1, 0)
    assert found["against"] == [{"file": str(bench), "field": "line", "texts": 1}]


def test_what_cannot_be_prepared_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    source = written(tmp_path / "talks.jsonl", {"messages": talk("a", "b")})
    bad = written(tmp_path / "bad.jsonl", "{nope", {"messages": talk("a", "```")})
    none = written(tmp_path / "none.jsonl")
    before = sorted(tmp_path.iterdir())
    out = tmp_path / "out.jsonl"
    for inputs, more, said in (
        ([tmp_path / "talk.jsonl"], {}, r"talk\.jsonl does not exist; the nearest is .*talks\.jsonl"),
        ([source], {"against": [tmp_path / "bat.jsonl"]}, r"bat\.jsonl does not exist; the nearest is .*bad\.jsonl"),
        ([source], {"ngram": 0}, "ngram must be at least 1, got 0"),
        ([tmp_path], {}, "is a folder, expected a file"),
        ([none], {}, "no conversation of 0 is left: the input is empty"),
        ([bad], {}, r"no conversation of 2 is left: 1 not_json \(first .*bad\.jsonl:1\), 1 incomplete"),
        ([source], {"against": [none]}, r"none\.jsonl holds no benchmark text: 0 rows"),
        ([source], {"against": [source]}, "a benchmark row has prompt or problem or question or text; it has messages"),
    ):
        with pytest.raises(ValueError, match=said):
            prepare_to(inputs, out, **more)
    with pytest.raises(ValueError, match="is one of the inputs; choose another"):
        prepare_to([source], source)
    with pytest.raises(ValueError, match=r"its name ends in \.jsonl, got out\.parquet"):
        prepare_to([source], Path("out.parquet"))
    assert sorted(tmp_path.iterdir()) == before


def test_samples_weigh_the_assistant_alone_and_fit_the_context() -> None:
    chat = Chat(train_tokenizer(["the answer is"] * 9, 270))
    rows = [talk("a", "b"), talk("a", "b" * 500)]
    made = list(samples(rows, chat, 64))
    assert len(made) == 1 and made[0].loss_weights is not None
    assert sum(made[0].loss_weights) == 2  # b and its end


def test_both_answers_of_two_turns_are_learnt_token_by_token() -> None:
    chat = Chat(train_tokenizer(["the answer is"] * 9, 270))
    (made,) = samples([[*talk("1", "2"), *talk("3", "4")]], chat, 64)
    assert made.loss_weights is not None
    shown = [(chat.tokenizer.id_to_token(int(i)), w) for i, w in zip(made.token_ids, made.loss_weights, strict=True)]
    learnt = [token for token, weight in shown if weight]
    assert learnt == ["2", "<|im_end|>", "4", "<|im_end|>"]
    user, assistant = (["<|im_start|>", *role, "Ċ"] for role in ("user", "assistant"))
    expected = [*user, "1", "<|im_end|>", "Ċ", *assistant, "2", "<|im_end|>", "Ċ"]
    expected += [*user, "3", "<|im_end|>", "Ċ", *assistant, "4", "<|im_end|>", "Ċ"]
    assert "".join(token for token, _ in shown) == "".join(expected)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("It remains at rest because the", "it ends with 'the'"),
        ("This is an answer, and", "it ends with 'and'"),
        ("The answer is **", "an emphasis is open"),
        (
            "It is so. It stays so. But what happens to the other object when the first one is cut off in the mid",
            "its last sentence is cut off after 'mid'",
        ),
        ("The **answer** is 5", ""),
        ("So x**2 is $4$", ""),
        ("The plank is 12 in", ""),
        ("no full stop is ever written here by someone who writes like this in all of his answers", ""),
    ],
)
def test_sentences_that_break_off_are_incomplete(answer: str, why: str) -> None:
    assert incomplete(answer) == why


def test_latin_prose_is_foreign_to_a_query_without_latin_words() -> None:
    prose = "重力是一种力. Gravity is the force by which a planet draws objects toward its center"
    assert "LATIN above all" in mixed_language("什么是重力？", [prose])
    assert mixed_language("什么是 Newton 的 gravity law？", [prose]) == ""
    assert mixed_language("请翻译成英语：你好", ["Hello my dear friend, how are you today"]) == ""
    assert mixed_language("用Python写一个函数", ["可以用 def 定义 `f`, 使用 list comprehension 即可"]) == ""


def test_an_answer_in_another_language_of_one_script_is_mixed() -> None:
    query = "What is the capital of France and what is it known for?"
    answer = "La capital de Francia es París, que es conocida por la torre y por los museos del mundo"
    assert mixed_language(query, [answer]) == "it is in Spanish, the query in English"
    assert mixed_language(f"{query} Answer in Spanish.", [answer]) == ""
    assert mixed_language("Miles per hour of the train that is at rest?", ["5 miles per hour, 6 miles per hour"]) == ""
