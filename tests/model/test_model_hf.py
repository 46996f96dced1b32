"""Folders in the released format: what transformers reads, what comes back, what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from openmimo.data.chat import CHAT_TEMPLATE, Chat
from openmimo.data.tokenizer import save_tokenizer, train_tokenizer
from openmimo.model.attention import packed_attention
from openmimo.model.config import MiMoConfig
from openmimo.model.folder import inspect_folder, load_config
from openmimo.model.headers import find_tensors
from openmimo.model.hf import convert_folder, load_folder, save_folder
from openmimo.model.mimo import MiMo

SMALL = MiMoConfig(
    vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, rope_theta=1e4, max_position_embeddings=64, rms_norm_eps=1e-5,
)  # fmt: skip


def model_of(config: MiMoConfig = SMALL, seed: int = 0) -> MiMo:
    """Weights large enough, biases and norms uneven enough, that a wrong one shows."""
    model = MiMo(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.2, generator=generator)
    return model


def ours(model: MiMo, ids: torch.Tensor) -> torch.Tensor:
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    with torch.no_grad():
        return model.logits(model(ids, positions, packed_attention(torch.zeros_like(ids))))


def with_fields(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def with_tensors(folder: Path, change: dict[str, torch.Tensor | None]) -> None:
    path = folder / "model.safetensors"
    tensors = {**load_file(path), **change}
    save_file({k: v for k, v in tensors.items() if v is not None}, path)


@pytest.mark.parametrize("tied", [False, True])
def test_transformers_qwen2_gives_the_same_logits(tied: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = model_of(MiMoConfig(**{**vars(SMALL), "tie_word_embeddings": tied}))
    save_folder(model, tmp_path / "q", format="qwen2")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "q", dtype=torch.float32).eval()
    assert type(theirs).__name__ == "Qwen2ForCausalLM"
    ids = torch.randint(0, 300, (3, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(ids).logits
    assert expected.std() > 0.5
    assert (ours(model, ids) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("tied", [False, True])
def test_a_folder_that_transformers_wrote_is_read(tied: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=200, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, rope_theta=50_000.0, tie_word_embeddings=tied,
    )  # fmt: skip
    theirs = transformers.Qwen2ForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path / "hf")
    model = load_folder(tmp_path / "hf")
    assert model.config.num_nextn_predict_layers == 0 and model.config.tie_word_embeddings is tied
    assert model.config.rms_norm_eps == config.rms_norm_eps and model.config.vocab_size == 200
    ids = torch.randint(0, 200, (2, 30))
    with torch.no_grad():
        assert (ours(model, ids) - theirs(ids).logits).abs().max() < 1e-4


def test_transformers_reads_our_tokenizer_and_renders_the_same_chat(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = train_tokenizer(["def f(x): return x + 1", "the cat, the hat; 1234 numbers"] * 20, 300)
    save_tokenizer(tokenizer, tmp_path / "t", chat_template=CHAT_TEMPLATE, max_length=64)
    folder = save_folder(model_of(), tmp_path / "m", tokenizer_from=tmp_path / "t")
    chat = Chat.load(folder)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in ("def f(x):\n\treturn 2024", "<think> naïve 😀\u2028\0 </think>", "  <|im_end|> x", ""):
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert tuple(ids) == chat.encode(text)
        assert theirs.decode(ids) == text
    assert theirs.eos_token_id == chat.stop_token_ids[0]
    talk = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "<think> sum </think> 2"}]
    for messages, ask in (
        (talk[:1], True),
        (talk, False),
        ([{"role": "system", "content": "Be brief."}, *talk], False),
    ):
        text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
        rendered = chat.render_messages(messages) if ask else chat.render_training(messages)[0]
        assert tuple(theirs(text, add_special_tokens=False)["input_ids"]) == rendered


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("max_shard_bytes", [4_000_000_000, 9_000])
def test_a_round_trip_is_bit_exact(dtype: torch.dtype, max_shard_bytes: int, tmp_path: Path) -> None:
    model = model_of().to(dtype)
    folder = save_folder(model, tmp_path / "m", max_shard_bytes=max_shard_bytes)
    files = list(folder.glob("*.safetensors"))
    assert (len(files) > 1) == (max_shard_bytes < 1_000_000)
    again = load_folder(folder)
    assert again.config == model.config
    for (name, a), b in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b), name
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    if len(files) > 1:
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(t.nbytes for t in model.state_dict().values())
        assert set(index["weight_map"].values()) == {p.name for p in files}
        files[0].unlink()
        with pytest.raises(ValueError, match=files[0].name):
            load_folder(folder)


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    model = model_of(MiMoConfig(**{**vars(SMALL), "tie_word_embeddings": True}))
    folder = save_folder(model, tmp_path / "m")
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    again = load_folder(folder)
    assert again.lm_head.weight is again.model.embed_tokens.weight


def test_the_rope_base_of_stage_3_survives(tmp_path: Path) -> None:
    model = model_of()
    model.rope_theta = 640_000.0
    for form in ("mimo", "qwen2"):
        again = load_folder(save_folder(model, tmp_path / form, format=form))  # type: ignore[arg-type]
        assert again.rope_theta == again.config.rope_theta == 640_000.0


def test_chained_layers_stand_in_config_json_only_where_they_are_chained(tmp_path: Path) -> None:
    chained = MiMoConfig(**{**vars(SMALL), "mtp_chained": True, "num_nextn_predict_layers": 2})
    for config, written in ((SMALL, False), (chained, True)):
        folder = save_folder(model_of(config), tmp_path / str(written))
        assert ("mtp_chained" in json.loads((folder / "config.json").read_text())) is written
        assert load_folder(folder).config.mtp_chained is written
    plain = save_folder(model_of(chained), tmp_path / "q", format="qwen2")
    assert "mtp_chained" not in json.loads((plain / "config.json").read_text())
    assert load_config(plain).mtp_chained is False


def test_saving_replaces_an_older_folder(tmp_path: Path) -> None:
    save_folder(model_of(seed=1), tmp_path / "m", max_shard_bytes=9_000)
    new = model_of(seed=2)
    save_folder(new, tmp_path / "m")
    assert torch.equal(load_folder(tmp_path / "m").lm_head.weight, new.lm_head.weight)
    assert len(list((tmp_path / "m").glob("*.safetensors"))) == 1


def test_every_broken_tensor_is_named_in_one_line(tmp_path: Path) -> None:
    name = "model.mtp_layers.0.input_proj.weight"
    cases = {
        "missing": ({name: None}, f"{name} is missing"),
        "unexpected": ({"model.rotary": torch.ones(1)}, "unexpected tensor model.rotary"),
        "shape": ({name: torch.ones(2, 2)}, rf"{name} has shape \(2, 2\), expected \(32, 64\)"),
    }
    for case, (change, message) in cases.items():
        folder = save_folder(model_of(), tmp_path / case)
        with_tensors(folder, change)
        with pytest.raises(ValueError, match=message) as caught:
            load_folder(folder)
        assert "\n" not in str(caught.value)
    report = inspect_folder(tmp_path / "missing")
    assert report["missing"] == [name] and not report["unexpected"]
    assert inspect_folder(tmp_path / "shape")["wrong_shape"] == [name]


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    folder = save_folder(model_of(), tmp_path / "m")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read"):
        load_folder(folder)


def test_a_folder_that_is_none_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere does not exist"):
        load_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        load_folder(tmp_path / "empty")
    folder = save_folder(model_of(), tmp_path / "m")
    with_fields(folder, model_type="llama")
    with pytest.raises(ValueError, match="model_type 'llama' is not supported"):
        load_folder(folder)
    with_fields(folder, model_type="mimo")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no safetensors file"):
        load_folder(folder)
    (folder / "config.json").write_text('{"model_type": "mimo"')
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        load_folder(folder)
    (folder / "config.json").write_text('{"model_type": "mimo"}')
    with pytest.raises(ValueError, match=r"config\.json lacks vocab_size"):
        load_folder(folder)


def test_what_the_model_cannot_do_is_refused_and_not_ignored(tmp_path: Path) -> None:
    folder = save_folder(model_of(), tmp_path / "m", format="qwen2")
    before = json.loads((folder / "config.json").read_text())
    wrong: list[dict[str, object]] = [
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}},
        {"use_sliding_window": True},
        {"hidden_act": "gelu"},
    ]
    for fields in wrong:
        (folder / "config.json").write_text(json.dumps({**before, **fields}))
        with pytest.raises(ValueError, match="is not supported"):
            load_config(folder)


def test_a_qwen2_config_without_optional_fields_has_qwen2s_defaults(tmp_path: Path) -> None:
    folder = save_folder(model_of(), tmp_path / "m", format="qwen2")
    raw = json.loads((folder / "config.json").read_text())
    for name in ("rope_theta", "rms_norm_eps", "head_dim"):
        raw.pop(name)
    (folder / "config.json").write_text(json.dumps(raw))
    config = load_config(folder)
    assert (config.rope_theta, config.rms_norm_eps, config.head_dim) == (10_000.0, 1e-6, 8)


def test_the_released_shape_has_the_released_number_of_parameters() -> None:
    assert MiMoConfig().num_parameters() == (7_622_619_136, 210_790_400)
    assert sum(SMALL.num_parameters()) == sum(p.numel() for p in MiMo(SMALL).parameters())


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_an_index_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json is no index of tensors"):
        find_tensors(tmp_path)


@pytest.mark.parametrize("value", ["x", 0, -1.0, True])
def test_a_rope_base_that_is_none_is_named(tmp_path: Path, value: object) -> None:
    folder = save_folder(model_of(), tmp_path / "m")
    with_fields(folder, rope_theta=value)
    with pytest.raises(ValueError, match=r"rope_theta must be a number above 0, got"):
        load_folder(folder)


def released_config() -> dict[str, object]:
    """As the released folder's config.json has it, but for the sizes."""
    return {
        "architectures": ["MiMoForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "auto_map": {"AutoConfig": "configuration_mimo.MiMoConfig", "AutoModel": "modeling_mimo.MiMoModel"},
        "bos_token_id": 290,
        "eos_token_id": 291,
        "head_dim": 8,
        "hidden_act": "silu",
        "hidden_size": 32,
        "initializer_range": 0.02,
        "intermediate_size": 48,
        "max_position_embeddings": 32_768,
        "max_window_layers": 2,
        "model_type": "mimo",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "num_nextn_predict_layers": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 640_000,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.40.1",
        "use_cache": True,
        "use_mrope": False,
        "use_sliding_window": False,
        "vocab_size": 300,
    }


def test_a_folder_as_released_loads_and_what_lies_beside_the_weights_comes_along(tmp_path: Path) -> None:
    model = model_of().bfloat16()
    folder = save_folder(model, tmp_path / "released", max_shard_bytes=9_000)
    (folder / "config.json").write_text(json.dumps(released_config()))
    companions = {
        "generation_config.json": '{"temperature": 0.3}',
        "README.md": "# Somebody's own card",
        "merges.txt": "a b",
        "modeling_mimo.py": "raise SystemExit",
    }
    for name, text in companions.items():
        (folder / name).write_text(text)
    again = load_folder(folder)
    assert again.config == MiMoConfig(
        **{**vars(SMALL), "rope_theta": 640_000, "max_position_embeddings": 32_768, "bos_token_id": 290,
           "eos_token_id": 291}
    )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    with_fields(folder, eos_token_id=[295, 291])
    assert load_config(folder).eos_token_id == 295
    for out in (
        save_folder(again, tmp_path / "saved", tokenizer_from=folder),
        convert_folder(folder, tmp_path / "converted"),
    ):
        assert {name: (out / name).read_text() for name in list(companions)[:3]} == dict(list(companions.items())[:3])
        assert not (out / "modeling_mimo.py").exists(), "no code comes along"
        assert set(load_folder(out).state_dict()) == set(model.state_dict())


def test_generation_settings_and_a_card_are_written_and_a_card_of_ours_says_what_is_true_now(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = MiMoConfig(**{**vars(SMALL), "bos_token_id": 3, "eos_token_id": 5})
    folder = save_folder(model_of(config), tmp_path / "m")
    found = transformers.GenerationConfig.from_pretrained(folder)
    assert (found.bos_token_id, found.eos_token_id, found.temperature, found.top_p) == (3, 5, 0.6, 0.95)
    three = MiMoConfig(**{**vars(config), "num_nextn_predict_layers": 3, "mtp_chained": True})
    card = (save_folder(model_of(three), tmp_path / "three", tokenizer_from=folder) / "README.md").read_text()
    assert card.startswith("---\nlibrary_name:") and "| MTP layers | 3, chained" in card
    trunk, mtp = three.num_parameters()
    assert f"| parameters | {trunk + mtp:,} ({mtp:,} of them MTP) |" in card
    plain = (convert_folder(folder, tmp_path / "q", format="qwen2") / "README.md").read_text()
    assert "| MTP layers | 0 |" in plain and f"| parameters | {trunk:,} |" in plain


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("num_nextn_predict_layers", -1, "must be an integer of at least 0, got -1"),
        ("num_nextn_predict_layers", "1", "must be an integer of at least 0, got '1'"),
        ("head_dim", 0, "must be an integer of at least 1, got 0"),
        ("tie_word_embeddings", "no", "must be true or false, got 'no'"),
        ("mtp_chained", 1, "mtp_chained is true or false, got 1"),
    ],
)
def test_a_field_of_the_wrong_kind_is_named(tmp_path: Path, field: str, value: object, said: str) -> None:
    folder = save_folder(model_of(), tmp_path / "m")
    with_fields(folder, **{field: value})
    with pytest.raises(ValueError, match=field) as caught:
        load_folder(folder)
    assert said in str(caught.value)


def test_a_tensor_of_integers_is_refused(tmp_path: Path) -> None:
    folder = save_folder(model_of(), tmp_path / "m")
    with_tensors(folder, {"model.norm.weight": torch.ones(32, dtype=torch.int8)})
    with pytest.raises(
        ValueError, match=r"tensor model\.norm\.weight is I8, which is not supported; F32, BF16, F16 are"
    ):
        load_folder(folder)
