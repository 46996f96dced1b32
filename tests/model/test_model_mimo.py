"""The decoder and its MTP layer against slow references written out here."""

import math

import pytest
import torch
from torch import Tensor

from openmimo.model.attention import document_mask, packed_attention
from openmimo.model.config import MiMoConfig
from openmimo.model.mimo import MiMo

CONFIG = MiMoConfig(
    vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=6, rope_theta=1e4, max_position_embeddings=32, num_nextn_predict_layers=2,
)  # fmt: skip


def model_of(config: MiMoConfig = CONFIG) -> MiMo:
    model = MiMo(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.3, generator=generator)
    return model


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return torch.stack([row / math.sqrt(float((row * row).mean()) + CONFIG.rms_norm_eps) * weight for row in x])


def turn(vector: Tensor, position: int, theta: float) -> Tensor:
    """RoPE of one head's vector: coordinates i and i + E/2 turn by position * theta^(-2i/E)."""
    half = len(vector) // 2
    out = vector.clone()
    for i in range(half):
        angle = position * theta ** (-2 * i / len(vector))
        a, b = vector[i], vector[i + half]
        out[i] = a * math.cos(angle) - b * math.sin(angle)
        out[i + half] = b * math.cos(angle) + a * math.sin(angle)
    return out


def slow_block(w: dict[str, Tensor], prefix: str, x: Tensor, theta: float) -> Tensor:
    """One pre-norm block on (T, D), head by head, query by query."""
    part = {name.removeprefix(prefix): tensor for name, tensor in w.items() if name.startswith(prefix)}
    heads, groups, size = CONFIG.num_attention_heads, CONFIG.num_key_value_heads, CONFIG.head_dim
    y = norm(x, part["input_layernorm.weight"])
    q, k, v = (y @ part[f"self_attn.{n}_proj.weight"].T + part[f"self_attn.{n}_proj.bias"] for n in "qkv")
    out = torch.zeros(len(x), heads * size)
    for h in range(heads):
        g = h // (heads // groups)
        columns, kv_columns = slice(h * size, (h + 1) * size), slice(g * size, (g + 1) * size)
        for t in range(len(x)):
            query = turn(q[t, columns], t, theta)
            scores = torch.stack([query @ turn(k[s, kv_columns], s, theta) / math.sqrt(size) for s in range(t + 1)])
            out[t, columns] = scores.softmax(0) @ v[: t + 1, kv_columns]
    x = x + out @ part["self_attn.o_proj.weight"].T
    y = norm(x, part["post_attention_layernorm.weight"])
    gate = y @ part["mlp.gate_proj.weight"].T
    return x + (gate * gate.sigmoid() * (y @ part["mlp.up_proj.weight"].T)) @ part["mlp.down_proj.weight"].T


def slow_trunk(w: dict[str, Tensor], ids: Tensor, theta: float) -> Tensor:
    x = w["model.embed_tokens.weight"][ids]
    for n in range(CONFIG.num_hidden_layers):
        x = slow_block(w, f"model.layers.{n}.", x, theta)
    return x


def slow_mtp(w: dict[str, Tensor], k: int, hidden: Tensor, ids: Tensor) -> Tensor:
    """MTP layer k (from 0) on hidden states (T, D): slot t reads token t + 1 + k; the block's output, not normed."""
    prefix = f"model.mtp_layers.{k}."
    e = w["model.embed_tokens.weight"][ids[1 + k :]]
    joined = torch.cat(
        [norm(hidden, w[prefix + "hidden_layernorm.weight"]), norm(e, w[prefix + "token_layernorm.weight"])], -1
    )
    return slow_block(w, prefix, joined @ w[prefix + "input_proj.weight"].T, 1e4)


@pytest.mark.parametrize("theta", [1e4, 640_000.0])
def test_the_trunk_equals_the_equations_written_out(theta: float) -> None:
    model = model_of()
    model.rope_theta = theta
    ids = torch.randint(0, 40, (9,), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        got = model(ids[None], torch.arange(9)[None], packed_attention(torch.zeros(1, 9, dtype=torch.long)))[0]
        assert torch.allclose(got, slow_trunk(model.state_dict(), ids, theta), atol=2e-5)


@pytest.mark.parametrize("which", ["pre_norm", "normed"])
@pytest.mark.parametrize("k", [0, 1])
def test_an_mtp_layer_equals_the_equations_written_out(k: int, which: str) -> None:
    """Names as released; [hidden, embedding]; hidden BEFORE the trunk's final norm; layers parallel (MiMo 2.2)."""
    model = model_of(MiMoConfig(**{**vars(CONFIG), "mtp_hidden": which}))
    w = model.state_dict()
    ids = torch.randint(0, 40, (10,), generator=torch.Generator().manual_seed(3))
    slots = 10 - 1 - k  # slot t reads token t + 1 + k
    hidden = slow_trunk(w, ids, 1e4)[:slots]
    h = norm(hidden, w["model.norm.weight"]) if which == "normed" else hidden
    expected = slow_mtp(w, k, h, ids)
    with torch.no_grad():
        attend = packed_attention(torch.zeros(1, slots, dtype=torch.long))
        got = model.draft_hidden(k, hidden[None], ids[None, 1 + k :], torch.arange(slots)[None], attend)[0]
        assert torch.allclose(got, expected, atol=2e-5)
        normed = norm(expected, w[f"model.mtp_layers.{k}.final_layernorm.weight"])
        assert torch.allclose(model.draft_normed(k, got), normed, atol=2e-5)


@pytest.mark.parametrize("which", ["pre_norm", "normed"])
def test_a_chained_mtp_layer_reads_the_output_of_the_one_before_in_place_of_the_trunks(which: str) -> None:
    """Pre-norm layers read the block's output, normed ones what the layer's final norm makes of it."""
    changed = {**vars(CONFIG), "mtp_hidden": which, "mtp_chained": True, "num_nextn_predict_layers": 3}
    model = model_of(MiMoConfig(**changed))
    w = model.state_dict()
    ids = torch.randint(0, 40, (10,), generator=torch.Generator().manual_seed(3))
    expected = slow_trunk(w, ids, 1e4)
    given = expected
    for k in range(3):
        slots = 10 - 1 - k
        given, before = given[None, :slots], expected[:slots]
        weight = w["model.norm.weight"] if k == 0 else w[f"model.mtp_layers.{k - 1}.final_layernorm.weight"]
        expected = slow_mtp(w, k, norm(before, weight) if which == "normed" else before, ids)
        with torch.no_grad():
            attend = packed_attention(torch.zeros(1, slots, dtype=torch.long))
            given = model.draft_hidden(k, given, ids[None, 1 + k :], torch.arange(slots)[None], attend)[0]
        assert torch.allclose(given, expected, atol=5e-5), k


def test_mtp_tensors_have_the_released_names() -> None:
    names = {
        n.removeprefix("model.mtp_layers.0.") for n in MiMo(CONFIG).state_dict() if n.startswith("model.mtp_layers.0.")
    }
    attention = {f"self_attn.{p}_proj.{part}" for p in "qkv" for part in ("weight", "bias")}
    norms = ("token_layernorm", "hidden_layernorm", "input_layernorm", "post_attention_layernorm", "final_layernorm")
    mlp = {f"mlp.{p}_proj.weight" for p in ("gate", "up", "down")}
    assert names == attention | mlp | {f"{n}.weight" for n in norms} | {"self_attn.o_proj.weight", "input_proj.weight"}


def test_documents_in_one_row_do_not_see_each_other() -> None:
    model = model_of()
    a, b = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[5, 6, 7]])
    row = torch.cat((a, b, torch.zeros(1, 2, dtype=torch.long)), 1)
    documents = torch.tensor([[0, 0, 0, 0, 1, 1, 1, -1, -1]])
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 0]])
    with torch.no_grad():
        packed = model(row, positions, packed_attention(documents))
        for part, where in ((a, slice(0, 4)), (b, slice(4, 7))):
            alone = model(part, torch.arange(part.shape[1])[None], packed_attention(torch.zeros_like(part)))
            assert torch.allclose(packed[:, where], alone, atol=1e-6)
        assert torch.isfinite(packed).all()


def test_the_document_mask_by_hand() -> None:
    mask = document_mask(torch.tensor([[0, 0, 1, -1]]))[0, 0].int().tolist()
    assert mask == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_initial_weights_are_a_function_of_the_generator() -> None:
    first, second = (MiMo(CONFIG).init_weights(torch.Generator().manual_seed(5)).state_dict() for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.values(), second.values(), strict=True))
    assert first["model.norm.weight"].eq(1).all() and first["model.layers.0.self_attn.q_proj.bias"].eq(0).all()
    assert abs(float(first["model.embed_tokens.weight"].std()) - 0.02) < 0.004


def test_heads_that_cannot_be_grouped_are_refused() -> None:
    with pytest.raises(ValueError, match="num_attention_heads 4 must be a multiple of num_key_value_heads 3"):
        MiMoConfig(num_attention_heads=4, num_key_value_heads=3)
    with pytest.raises(ValueError, match="mtp_hidden is pre_norm or normed, got 'post'"):
        MiMoConfig(mtp_hidden="post")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mtp_chained is true or false, got 'yes'"):
        MiMoConfig(mtp_chained="yes")  # type: ignore[arg-type]
