"""The memory that is predicted is the memory that tensors of a real training step take."""

from dataclasses import replace

import pytest
from plan_memory import held, most_allocated, train

from openmimo.memory import Layout, memory_of
from openmimo.mesh import Mesh
from openmimo.model.config import MiMoConfig

MODEL = MiMoConfig(
    vocab_size=1024,
    hidden_size=128,
    intermediate_size=352,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
)
CASES = {
    **{
        f"{dtype} {mode}": (MODEL, Layout(2, 256, dtype, mode, passes=passes))  # type: ignore[arg-type]
        for dtype in ("float32", "bfloat16")
        for mode, passes in (("none", 1), ("selective", 2), ("full", 2))
    },
    "chunks": (MODEL, Layout(2, 256, chunk_tokens=100)),
    "many layers, few slots": (replace(MODEL, num_hidden_layers=6), Layout(1, 64, passes=1)),
    "no MTP": (replace(MODEL, num_nextn_predict_layers=0), Layout(2, 256, passes=1)),
    "two MTP layers": (replace(MODEL, num_nextn_predict_layers=2), Layout(2, 256, passes=1)),
    "Muon": (MODEL, Layout(2, 256, optimizer="muon")),
}


@pytest.mark.parametrize("name", CASES)
def test_predicted_memory_is_what_a_steps_tensors_take(name: str) -> None:
    """Against PyTorch's own allocations and frees, which are the same on every machine; hence 5 %, not 10."""
    model, layout = CASES[name]
    memory = memory_of(model, layout)
    state, step = train(model, layout, Mesh())
    measured = held(state) + most_allocated(step)
    assert memory.total - memory.parts["reserve"] == pytest.approx(measured, rel=0.05), (memory, measured)
    assert memory.parts["weights"] + memory.parts["copies"] + memory.parts["optimizer"] == pytest.approx(
        held(state), rel=0.005
    )
