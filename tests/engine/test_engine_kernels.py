"""The compiled kernels against the same arithmetic written out, under every instruction set that the machine has."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from openmimo.engine import _kernels
from openmimo.engine.cpu import CpuForward
from openmimo.engine.forward import Rows, TorchForward
from openmimo.engine.sample import Draws, exponential, probabilities, raw_logprobs, sample
from openmimo.model.config import MiMoConfig
from openmimo.model.mimo import MiMo
from openmimo.types import Sampling

SHAPE = MiMoConfig(
    vocab_size=203,
    hidden_size=48,
    intermediate_size=72,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=24,
    num_nextn_predict_layers=2,
    initializer_range=0.3,
)
BLOCK = 16


@pytest.fixture(params=["plain", "avx2", "avx512"])
def instructions(request: pytest.FixtureRequest) -> Iterator[str]:
    try:
        _kernels.use(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    _kernels.use()


def product(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, threads: int = 1
) -> torch.Tensor:
    outputs, inputs = weight.shape
    packed, out = torch.empty(-(-outputs // 64) * 64 * inputs), torch.full((len(x), outputs), math.nan)
    _kernels.pack(weight.data_ptr(), packed.data_ptr(), outputs, inputs)
    address = 0 if bias is None else bias.data_ptr()
    _kernels.product(x.data_ptr(), packed.data_ptr(), address, out.data_ptr(), len(x), inputs, outputs, False, threads)
    return out


@pytest.mark.parametrize(("outputs", "inputs"), [(64, 32), (203, 48), (1, 1), (65, 7), (130, 513)])
def test_a_product_is_that_of_the_matrices_and_its_rows_do_not_know_of_each_other(
    instructions: str, outputs: int, inputs: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(29, inputs, generator=generator), torch.randn(outputs, inputs, generator=generator)
    bias = torch.randn(outputs, generator=generator)
    whole = product(x, weight, bias)
    expected = x.double() @ weight.double().T + bias.double()
    assert (whole.double() - expected).abs().max() < 2e-5 * math.sqrt(inputs)
    for count in range(1, 14):
        assert torch.equal(product(x[5 : 5 + count].contiguous(), weight, bias), whole[5 : 5 + count])


def test_threads_share_out_whole_sums(instructions: str) -> None:
    x, weight = torch.randn(150, 301), torch.randn(500, 301)
    assert torch.equal(product(x, weight, threads=3), product(x, weight))


def test_a_product_can_be_added_to_what_is_there(instructions: str) -> None:
    x, weight, out = torch.randn(3, 8), torch.randn(70, 8), torch.ones(3, 70)
    packed = torch.empty(128 * 8)
    _kernels.pack(weight.data_ptr(), packed.data_ptr(), 70, 8)
    _kernels.product(x.data_ptr(), packed.data_ptr(), 0, out.data_ptr(), 3, 8, 70, True, 1)
    assert torch.allclose(out, 1 + x @ weight.T, atol=1e-5)


@pytest.mark.parametrize("width", [8, 16, 40])
def test_norm_and_gate_are_the_models(instructions: str, width: int) -> None:
    x, weight, out = torch.randn(5, width) * 3, torch.randn(width), torch.zeros(5, 2 * width)
    _kernels.norm(x.data_ptr(), weight.data_ptr(), out.data_ptr(), 5, 2 * width, width, 1e-5)
    assert torch.allclose(out[:, :width], torch.nn.functional.rms_norm(x, (width,), weight, 1e-5), atol=1e-5)
    assert not out[:, width:].any()
    both, gated = torch.randn(5, 2 * width) * torch.tensor([0.1, 1.0, 10.0, 100.0, 1e4])[:, None], torch.zeros(5, width)
    _kernels.gate(both.data_ptr(), gated.data_ptr(), 5, width)
    expected = torch.nn.functional.silu(both[:, :width].double()) * both[:, width:].double()
    assert torch.allclose(gated.double(), expected, rtol=1e-6, atol=1e-6)


def forwards(model: MiMo, *, fill: float = 0.0) -> tuple[CpuForward, TorchForward, np.ndarray]:
    """Both passes over the same table of three sequences, whose blocks lie anywhere."""
    table = np.random.default_rng(0).permutation(9).astype(np.int32).reshape(3, 3)
    layers = model.config.num_hidden_layers + model.config.num_nextn_predict_layers
    compiled = CpuForward(model, num_layers=layers, num_states=2, num_blocks=9, table_RJ=table, block_size=BLOCK)
    plain = TorchForward(
        model, num_layers=layers, num_states=2, num_blocks=9, table_RJ=table, block_size=BLOCK, batch_invariant=False
    )
    for array in (compiled.keys, compiled.values, plain.keys.numpy(), plain.values.numpy()):
        array.fill(fill)
    return compiled, plain, table


def random_rows(table: np.ndarray, lengths: list[int]) -> Rows:
    """All positions of every sequence."""
    rng = np.random.default_rng(1)
    owners = [row for row, length in enumerate(lengths) for _ in range(length)]
    positions = [at for length in lengths for at in range(length)]
    ids = rng.integers(0, SHAPE.vocab_size, len(owners)).tolist()
    return Rows.of(ids, positions, owners, table, BLOCK)


@pytest.fixture(scope="module")
def model() -> MiMo:
    model = MiMo(SHAPE).init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.3)
    return model


@pytest.mark.parametrize("fill", [0.0, math.nan])
def test_both_forward_passes_agree_and_never_read_rubbish_in_reused_blocks(
    instructions: str, model: MiMo, fill: float
) -> None:
    compiled, plain, table = forwards(model, fill=fill)
    rows = random_rows(table, [1, 17, 48])
    every = list(range(len(rows)))
    with torch.inference_mode():
        hidden, expected = compiled.trunk(rows).clone(), plain.trunk(rows).clone()
        assert torch.allclose(hidden, expected, atol=2e-4)
        assert torch.allclose(compiled.logits(hidden, every), plain.logits(hidden, every), atol=2e-4)
        for k in range(2):
            draft = compiled.draft(k, rows).clone()
            assert torch.allclose(draft, plain.draft(k, rows), atol=2e-4)
            assert torch.allclose(compiled.logits(draft, [3, 0, 65], k), plain.logits(draft, [3, 0, 65], k), atol=2e-4)


@pytest.mark.parametrize("kind", ["compiled", "tiles"])
def test_a_row_has_the_same_bits_in_any_company_and_chunking(model: MiMo, kind: str) -> None:
    def fresh() -> CpuForward | TorchForward:
        compiled, _, table = forwards(model)
        tiles = TorchForward(
            model, num_layers=4, num_states=0, num_blocks=9, table_RJ=table, block_size=BLOCK, batch_invariant=True
        )
        return compiled if kind == "compiled" else tiles

    table = forwards(model)[2]
    rows = random_rows(table, [7, 31, 48])
    with torch.inference_mode():
        whole = fresh()
        hidden = whole.trunk(rows).clone()
        logits = whole.logits(hidden, list(range(86))).clone()
        for cuts in ([0, 1, 2, 3, 5, 38, 40, 86], [0, 7, 38, 86], [0, 20, 21, 50, 86]):
            pieces, parts = fresh(), []
            for start, stop in itertools.pairwise(cuts):
                parts.append(pieces.trunk(Rows(np.ascontiguousarray(rows.columns_5N[:, start:stop]))).clone())
            assert torch.equal(torch.cat(parts), hidden)
            parts = [pieces.logits(part, list(range(len(part)))).clone() for part in parts]
            assert torch.equal(torch.cat(parts), logits)


def test_extreme_scores_stay_finite() -> None:
    model = MiMo(SHAPE).init_weights(torch.Generator().manual_seed(3))
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.q_proj.weight *= 1e4
    compiled, plain, table = forwards(model)
    rows = random_rows(table, [40])
    with torch.inference_mode():
        found, expected = compiled.trunk(rows).clone(), plain.trunk(rows)
    assert torch.isfinite(found).all()
    assert torch.allclose(found, expected, atol=1e-2)


def test_draws_are_those_of_the_slow_version(instructions: str) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(60, 203, generator=generator) * 3
    samplings = [
        Sampling(1, temperature=(1.0, 0.6, 0.0)[n % 3], top_k=(0, 5)[n % 2], top_p=(1.0, 0.9)[n // 2 % 2],
                 min_p=(0.0, 0.05)[n // 4 % 2], seed=n)
        for n in range(60)
    ]  # fmt: skip
    drawn = sample(logits, Draws.of(samplings, list(range(60))), num_token_ids=200)
    for n, sampling in enumerate(samplings):
        if sampling.temperature:
            p = probabilities(logits[n : n + 1], [sampling], 200)[0]
            noise = exponential(np.array([n], np.uint64), np.array([n], np.uint64), 200, torch.device("cpu"))[0]
            assert drawn.token_ids[n] == int((p / noise).argmax())
            assert drawn.logprobs[n] == pytest.approx(math.log(float(p[drawn.token_ids[n]])), abs=1e-6)
        else:
            assert drawn.token_ids[n] == int(logits[n, :200].argmax())
            assert drawn.logprobs[n] == pytest.approx(float(logits[n, :200].double().log_softmax(-1).max()), abs=1e-6)
    raw = logits.double().log_softmax(-1)
    assert drawn.raw_logprobs == pytest.approx([float(raw[n, drawn.token_ids[n]]) for n in range(60)], abs=1e-6)
    assert raw_logprobs(logits, drawn.token_ids) == drawn.raw_logprobs


def test_ids_beyond_the_tokenizers_are_never_drawn_though_their_logits_are_the_largest() -> None:
    logits = torch.zeros(50, 40)
    logits[:, 30:] = 50.0
    drawn = sample(logits, Draws.of([Sampling(1)] * 50, list(range(50))), num_token_ids=30)
    assert max(drawn.token_ids) < 30
    assert drawn.logprobs == pytest.approx([-math.log(30)] * 50, abs=1e-6)


def test_min_p_is_relative_to_the_likeliest() -> None:
    logits = torch.tensor([[math.log(p) for p in (0.5, 0.3, 0.15, 0.05)]])
    kept = probabilities(logits, [Sampling(1, min_p=0.4)], 4)[0]
    assert kept.tolist() == pytest.approx([0.5 / 0.8, 0.3 / 0.8, 0.0, 0.0], abs=1e-6)


def test_an_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(ValueError, match="this machine has no avx1024"):
        _kernels.use("avx1024")
