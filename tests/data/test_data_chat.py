"""Messages to token ids: what is weighted, what a prompt is, whose template wins."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmimo.data.chat import CHAT_TEMPLATE, Chat
from openmimo.data.tokenizer import save_tokenizer, train_tokenizer

TOKENIZER = train_tokenizer(["user assistant system the answer is 4 <think> so </think>"] * 20, 300)
CHAT = Chat(TOKENIZER)
QWEN2 = Path(__file__).parents[2].parent / "shared" / "data" / "qwen2-tokenizer"
QWEN2_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

plain = st.text(alphabet="abc 0123.\n😀é", max_size=20)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@settings(deadline=None)
@given(st.lists(st.tuples(plain, plain), min_size=1, max_size=3))
def test_weights_are_1_exactly_on_the_assistants_tokens_and_their_end(turns: list[tuple[str, str]]) -> None:
    messages = [m for ask, reply in turns for m in (user(ask), assistant(reply))]
    ids, weights = CHAT.render_training(messages)
    assert len(ids) == len(weights) and set(weights) <= {0.0, 1.0}
    assert TOKENIZER.decode(list(ids), skip_special_tokens=False) == "".join(
        f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages
    )
    taught = [t for t, w in zip(ids, weights, strict=True) if w]
    assert TOKENIZER.decode(taught, skip_special_tokens=False) == "".join(f"{r}<|im_end|>" for _, r in turns)


@settings(deadline=None)
@given(st.lists(plain, max_size=4), plain, plain)
def test_the_prompt_is_a_prefix_of_what_is_trained_on(history: list[str], ask: str, reply: str) -> None:
    messages = [(user, assistant)[n % 2](text) for n, text in enumerate(history[: len(history) // 2 * 2])]
    messages.append(user(ask))
    prompt = CHAT.render_messages(messages)
    ids, weights = CHAT.render_training([*messages, assistant(reply)])
    assert ids[: len(prompt)] == prompt
    end = TOKENIZER.token_to_id("<|im_end|>")
    assert ids[len(prompt) :] == (*CHAT.encode(reply), end, *CHAT.encode("\n"))
    assert weights[len(prompt) :] == (1.0,) * (len(CHAT.encode(reply)) + 1) + (0.0,) * len(CHAT.encode("\n"))


def test_by_hand() -> None:
    ids, weights = CHAT.render_training([user("4"), assistant("4")])
    tokens = [TOKENIZER.id_to_token(i) for i in ids]
    assert tokens[0] == "<|im_start|>" and tokens.count("<|im_end|>") == 2
    taught = [t for t, w in zip(tokens, weights, strict=True) if w]
    assert taught == ["4", "<|im_end|>"]
    assert CHAT.render_prompt("4") == CHAT.render_messages([user("4")])


def test_generation_stops_at_both_end_tokens_and_they_are_not_shown() -> None:
    assert CHAT.stop_token_ids == tuple(TOKENIZER.token_to_id(t) for t in ("<|im_end|>", "<|endoftext|>"))
    assert CHAT.decode(CHAT.encode("<think> so </think> 4<|im_end|>")) == "<think> so </think> 4"


def folder_of(path: Path, template: str, **config: object) -> Path:
    save_tokenizer(TOKENIZER, path, chat_template=template, max_length=64)
    file = path / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    return path


def test_a_folders_own_template_wins(tmp_path: Path) -> None:
    own = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"  # noqa: E501
    first = Chat.load(folder_of(tmp_path / "a", own))
    assert TOKENIZER.decode(list(first.render_prompt("hi"))) == "[user]hi\n[assistant]"
    listed = [{"name": "tools", "template": "no"}, {"name": "default", "template": own}]
    assert Chat.load(folder_of(tmp_path / "b", own, chat_template=listed)).render_prompt("hi") == first.render_prompt(
        "hi"
    )
    third = folder_of(tmp_path / "c", CHAT_TEMPLATE, eos_token={"content": "<|endoftext|>"})
    (third / "chat_template.jinja").write_text(own)  # where transformers 5 puts it
    assert Chat.load(third).render_prompt("hi") == first.render_prompt("hi")
    assert Chat.load(third).stop_token_ids[0] == TOKENIZER.token_to_id("<|endoftext|>")


def test_transformers_saves_a_tokenizer_whose_template_we_find_again(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder_of(tmp_path / "a", QWEN2_TEMPLATE))
    theirs.save_pretrained(tmp_path / "b")
    chat = Chat.load(tmp_path / "b")
    assert chat.template == QWEN2_TEMPLATE
    text = theirs.apply_chat_template([user("hi")], tokenize=False, add_generation_prompt=True)
    assert chat.render_prompt("hi") == chat.encode(text)


def test_a_template_that_adds_a_system_message_is_followed() -> None:
    chat = Chat(TOKENIZER, QWEN2_TEMPLATE)
    ids, weights = chat.render_training([user("hi"), assistant("ho")])
    text = TOKENIZER.decode(list(ids), skip_special_tokens=False)
    assert text.startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nhi")
    assert sum(weights) == len(chat.encode("ho")) + 1
    assert chat.render_prompt("hi") == ids[: len(chat.render_prompt("hi"))]


def test_a_template_that_needs_a_first_message_works() -> None:
    first = "{% if messages[0]['role'] == 'system' %}S{% endif %}" + CHAT_TEMPLATE
    assert Chat(TOKENIZER, first).render_training([user("a"), assistant("b")])[0]


def test_a_template_that_rewrites_the_past_is_refused_for_training() -> None:
    last_only = "{% for m in messages %}{% if loop.last %}{{ m.content }}{% endif %}{% endfor %}"
    with pytest.raises(ValueError, match="rewrites earlier messages at message 1"):
        Chat(TOKENIZER, last_only).render_training([user("a"), assistant("b")])


TURN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' %}END{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"  # noqa: E501


def test_a_template_without_line_breaks_between_turns_gives_the_right_spans() -> None:
    chat = Chat(TOKENIZER, TURN.replace("END", "<|im_end|>"))
    ids, weights = chat.render_training([user("a\nb"), assistant("c\nd"), user("e"), assistant("f")])
    taught = [t for t, w in zip(ids, weights, strict=True) if w]
    assert TOKENIZER.decode(taught, skip_special_tokens=False) == "c\nd<|im_end|>f<|im_end|>"


def test_the_templates_own_end_of_a_turn_is_learnt_and_stops_generation(tmp_path: Path) -> None:
    base = Chat.load(folder_of(tmp_path / "base", QWEN2_TEMPLATE, eos_token="<|endoftext|>"))  # as Qwen2's base has it
    end, im_end = (TOKENIZER.token_to_id(token) for token in ("<|endoftext|>", "<|im_end|>"))
    assert base.stop_token_ids == (end, im_end)
    ids, weights = base.render_training([user("a"), assistant("4")])
    assert [t for t, w in zip(ids, weights, strict=True) if w] == [*CHAT.encode("4"), im_end]


def test_a_template_that_cannot_be_trained_on_is_refused() -> None:
    with pytest.raises(ValueError, match="ends the answer of message 1 with 'bEND', which is no special token"):
        Chat(TOKENIZER, TURN).render_training([user("a"), assistant("b")])
    thinks = CHAT_TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    with pytest.raises(ValueError, match=r"opens the answer of message 1 with .* one to be written with .*<think>"):
        Chat(TOKENIZER, thinks).render_training([user("a"), assistant("b")])
    ids, weights = Chat(TOKENIZER, thinks).render_training([user("a"), assistant("<think>\nso\n</think>\nb")])
    taught = TOKENIZER.decode([t for t, w in zip(ids, weights, strict=True) if w], skip_special_tokens=False)
    assert taught == "so\n</think>\nb<|im_end|>"


def test_a_template_cannot_reach_python(tmp_path: Path) -> None:
    from jinja2.exceptions import SecurityError

    with pytest.raises(SecurityError):
        Chat(TOKENIZER, "{{ ''.__class__.__mro__ }}").render_prompt("a")
    with pytest.raises(ValueError, match="the chat template refuses the messages: no tools"):
        Chat(TOKENIZER, "{{ raise_exception('no tools') }}").render_prompt("a")


def test_qwen2s_tokenizer_renders_the_published_ids(tmp_path: Path) -> None:
    if not QWEN2.is_dir():
        pytest.skip("../shared/data/qwen2-tokenizer is not there")
    (tmp_path / "tokenizer.json").write_bytes(gzip.decompress((QWEN2 / "tokenizer.json.gz").read_bytes()))
    chat = Chat.load(tmp_path)
    assert chat.render_prompt("Hello") == (151_644, 872, 198, 9707, 151_645, 198, 151_644, 77_091, 198)
