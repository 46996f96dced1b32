"""Memory of one rank while a training step runs, by part, from shapes alone (MiMo 2.2, 2.3).

Follows `train.step.train_step` with `train.loss.next_token_loss` and `train.compute.Worker` as they stand, uncompiled:
what each operation keeps for the backward pass, and which tensors live together at the moments a step can be largest.
The largest of those moments is the answer. benchmarks/plan_memory.py measures how far that is from the truth.

Left out: compiled code keeps less than this; what a GPU's context and communication take is the stated `reserve`.

Letters: P parameters, N = rows * context slots, D hidden size, F intermediate size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from openmimo.model.attention import takes_tiles
from openmimo.model.config import MiMoConfig
from openmimo.train.loss import chunk_of

Recompute = Literal["none", "selective", "full"]
PARTS = ("weights", "copies", "optimizer", "gradients", "activations", "attention", "logits", "gather", "reserve")
GPU_RESERVE_BYTES, GPU_RESERVE_SHARE = 3e9, 0.05
"""Kept free on a GPU: context, cuBLAS and NCCL buffers; and a share for pieces that no tensor fits in. Ours."""

CPU_RESERVE_BYTES = {"float32": 3e6, "bfloat16": 15e6}
"""What products take beside their tensors on a CPU, as measured; in bfloat16 these are reordered first. Python and
libraries, some 0.4 GB, are no part of it."""


@dataclass(frozen=True)
class Layout:
    """What of a run decides the memory of a rank."""

    rows: int
    """Rows that go through the model at a time."""
    context: int
    """Slots a row, over all ranks that share it."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    recompute: Recompute = "none"
    optimizer: Literal["adamw", "muon"] = "adamw"
    ranks: int = 1
    """Over which weights, gradients and optimizer state are sharded (FSDP2); 1: whole."""
    passes: int = 2
    """Forward and backward passes a step; from the second on gradients wait beside the activations."""
    chunk_tokens: int = 0
    """As in `PretrainConfig`."""
    mtp: bool = True
    device: Literal["cpu", "cuda"] = "cpu"
    """On a CPU norms keep float32 copies, and attention that cannot go by tiles reads a mask of context x context."""
    context_parallel: int = 1
    """Ranks that share a row; each gathers the keys and values of one layer."""
    tensor_parallel: int = 1
    """Ranks that share heads, feed-forward and vocabulary."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank at the largest moment of a step."""

    moment: str
    """mask, loss (its last logits), backward (its beginning), head, block (the trunk's last), end (of the backward
    pass) or update."""
    parts: dict[str, float]
    """By name, those of PARTS."""

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def memory_of(model: MiMoConfig, layout: Layout) -> Memory:
    """The largest moment of a training step."""
    return max(moments(model, layout), key=lambda memory: memory.total)


def moments(model: MiMoConfig, layout: Layout) -> list[Memory]:
    """Every moment at which a step may be largest, in the step's order."""
    count, act = _Counts.of(model, layout), _Activations.of(model, layout)
    size = 2 if layout.dtype == "bfloat16" else 4
    sharded, mixed, drafts = layout.ranks > 1, size == 2, act.drafts
    waiting = 4 * count.all / layout.ranks if layout.passes > 1 else 0.0
    always = {
        "weights": 4 * count.all / layout.ranks,
        "copies": 2 * count.all if mixed and not sharded else 0.0,
        "optimizer": (8 * count.all - (4 * count.matrices if layout.optimizer == "muon" else 0)) / layout.ranks,
        "gather": size * (count.root + 2 * count.block) if sharded else 0.0,
    }
    # The gradient of a matrix on its way to where it stays: of the size of the largest, or of a unit that is summed.
    formed = (4 + size) * count.block if sharded else 4 * count.largest
    # The embedding's waits for its second use, in the trunk; the head's are float32 from the forward pass on.
    table, heads = size * count.table * bool(drafts), 4 * count.table * (1 + drafts)
    kept = act.inputs + act.trunk + act.main
    whole = kept + act.draft

    def gradients(parameters: float, on_their_way: float) -> float:
        return max(waiting, 4 * parameters / layout.ranks) + on_their_way

    at = [
        ("mask", gradients(0, 0), act.inputs, act.mask_made, 0.0),
        ("loss", gradients(0, heads), whole + act.loss, act.mask, act.chunks),
        ("backward", gradients(0, heads + formed), whole + act.backward, act.mask, 0.0),
        (
            "head",
            gradients(drafts * count.draft, table + (4 + 2 * mixed + size * bool(drafts)) * count.table),
            kept,
            act.mask,
            0.0,
        ),
        (
            "block",
            gradients(drafts * count.draft + count.table, table + formed),
            act.inputs + act.trunk + act.block,
            act.mask,
            0.0,
        ),
        (
            "end",
            gradients(
                count.all - count.table,
                table + max(size, 4 * mixed) * count.table + ((4 + size) * count.root if sharded else 0),
            ),
            act.inputs,
            act.mask,
            0.0,
        ),
        ("update", 4 * count.all / layout.ranks + count.update_bytes, 0.0, 0.0, 0.0),
    ]
    return [
        Memory(name, _with_reserve({**always, "gradients": g, "activations": a, "attention": m, "logits": c}, layout))
        for name, g, a, m, c in at
    ]


def _with_reserve(parts: dict[str, float], layout: Layout) -> dict[str, float]:
    reserve = CPU_RESERVE_BYTES[layout.dtype]
    if layout.device == "cuda":
        reserve = GPU_RESERVE_BYTES + GPU_RESERVE_SHARE * sum(parts.values())
    return {name: {**parts, "reserve": reserve}[name] for name in PARTS}


@dataclass(frozen=True)
class _Counts:
    """Parameters, of one tensor-parallel rank."""

    all: float
    table: float
    """Embedding, and head, each."""
    root: float
    """What FSDP keeps whole between forward and backward: embedding, head, final norm."""
    block: float
    draft: float
    largest: float
    """The largest matrix of a block."""
    matrices: float
    """What Muon takes."""
    update_bytes: float
    """What the optimizer makes beside its state, for a matrix at a time."""

    @staticmethod
    def of(model: MiMoConfig, layout: Layout) -> _Counts:
        model = model if layout.mtp else replace(model, num_nextn_predict_layers=0)
        split, hidden = layout.tensor_parallel, model.hidden_size
        trunk, mtp = model.num_parameters()
        table = model.vocab_size * hidden
        root = table * (1 if model.tie_word_embeddings else 2) + hidden
        block = (trunk - root) / model.num_hidden_layers
        drafts = model.num_nextn_predict_layers
        vectors = 2 * hidden
        if model.attention_bias:
            vectors += (model.num_attention_heads + 2 * model.num_key_value_heads) * model.head_dim
        matrices = model.num_hidden_layers * (block - vectors) + drafts * (block - vectors + 2 * hidden * hidden)
        largest = hidden * max(model.intermediate_size, model.num_attention_heads * model.head_dim)
        side = min(hidden, model.intermediate_size)
        return _Counts(
            all=(trunk + mtp) / split,
            table=table / split,
            root=root / split,
            block=block / split,
            draft=mtp / max(drafts, 1) / split,
            largest=largest / split,
            matrices=matrices / split,
            # Newton-Schulz: the update in float32, two of its size and two squares in bfloat16.
            update_bytes=(8 * largest + 4 * side * side) / split if layout.optimizer == "muon" else 0.0,
        )


@dataclass(frozen=True)
class _Activations:
    """Bytes that live while a pass runs."""

    drafts: int
    inputs: float
    """The batch, and RoPE's cosines and sines."""
    trunk: float
    """Kept by all blocks."""
    main: float
    """Kept by the trunk's end: final norm, and the gradient that the loss formed."""
    draft: float
    """Kept by all MTP layers and their ends."""
    loss: float
    """What the loss holds while the last logits are computed."""
    backward: float
    """What the last layer needs to go back: what it recomputes, and gradients; less what its end has given back."""
    block: float
    """The same for a block of the trunk."""
    mask: float
    mask_made: float
    """While the mask is being made."""
    chunks: float
    """Logits."""

    @staticmethod
    def of(model: MiMoConfig, layout: Layout) -> _Activations:
        size, cuda = (2 if layout.dtype == "bfloat16" else 4), layout.device == "cuda"
        mixed = size == 2
        split = layout.tensor_parallel
        slots = layout.rows * layout.context / layout.context_parallel
        hidden, ffn = model.hidden_size, model.intermediate_size / split
        heads = model.num_attention_heads / split
        q_out, kv_out = heads * model.head_dim, model.num_key_value_heads * model.head_dim / split
        drafts = model.num_nextn_predict_layers if layout.mtp else 0
        # A norm keeps its input and, on a CPU, what it made of it, both in float32; its result is the next one's input.
        norm = size * hidden + 4 if cuda else 8 * hidden + 4
        shared = 0 if mixed and not cuda else size * hidden  # its input is the residual stream itself
        normed = norm + size * hidden
        scores = 4 * heads  # the log of each softmax's sum
        block = 2 * normed + size * (2 * q_out + 2 * kv_out) + scores + 4 * size * ffn
        # Two norms whose results are joined, and the projection of that.
        joined = 2 * norm + 2 * size * hidden - shared
        # Products: q, k, v, attention's result, and of o, gate, up and down.
        products = size * (2 * q_out + 2 * kv_out + 2 * hidden + 2 * ffn) + scores
        keeps = {
            "none": (block, block + joined),
            "full": (size * hidden, size * hidden * (1 + mixed)),
            "selective": (size * hidden + products, size * hidden * (2 + mixed) + products),
        }
        kept, kept_draft = keeps[layout.recompute]
        again = {
            "none": 0.0,
            "full": block - shared,
            "selective": 2 * normed - shared + size * (q_out + kv_out + 2 * ffn),
        }[layout.recompute]
        again_draft = again + (joined if drafts and layout.recompute != "none" else 0.0)
        back = slots * size * (hidden + 2 * ffn)
        end = norm + size * hidden + 1
        gathered = 2 * size * kv_out * layout.rows * layout.context if layout.context_parallel > 1 else 0.0
        masked = not cuda and not takes_tiles(model.head_dim)
        square = layout.rows * layout.context**2 / layout.context_parallel if masked else 0.0
        return _Activations(
            drafts=drafts,
            inputs=slots * (32 + 8 * model.head_dim * (1 + bool(drafts))),
            trunk=slots * model.num_hidden_layers * kept,
            main=slots * (end),
            draft=slots * drafts * (kept_draft + end),
            loss=slots * (2 * size * hidden + (1 + bool(drafts)) * size * hidden * mixed + 40),
            backward=slots * (again_draft - end) + back + gathered,
            block=slots * again + back + gathered,
            mask=size * square,
            mask_made=(size + 2) * square,
            chunks=_logit_bytes(model, layout, slots),
        )


def _logit_bytes(model: MiMoConfig, layout: Layout, slots: float) -> float:
    """What the chunked cross-entropy makes for one chunk."""
    split = layout.tensor_parallel
    chunk = layout.chunk_tokens or chunk_of(model.vocab_size, layout.device)
    logits = min(chunk, slots) * model.vocab_size / split
    table = model.vocab_size * model.hidden_size / split
    if layout.device == "cpu":
        # The gradient takes the logits' place. In bfloat16 the head's from a chunk is converted to be added up.
        return 4 * logits if layout.dtype == "float32" else 2 * logits + 6 * table
    if layout.dtype == "float32":
        return 8 * logits
    return max(8 * logits, 6 * logits + 2 * table)


RL_PARTS = (*PARTS, "engine", "cache")


@dataclass(frozen=True)
class Colocated:
    """What shares the device with the trainer in RL (MiMo 3.3, 3.4): engines with weights of their own."""

    cache_bytes: float
    """Of an engine's keys and values."""
    batch_size: int
    """Sequences decoded together, an engine."""
    offload: bool = False
    """As in `OptimConfig`: the optimizer's state rests in main memory."""
    processes: int = 0
    """Engines in processes of their own; 0: one in the trainer's."""
    streams: bool = False
    """Updates begin while engines generate, with old log-probabilities from a frozen copy (decision 0043)."""


def rl_memory_of(model: MiMoConfig, layout: Layout, beside: Colocated) -> Memory:
    """The largest moment of an RL step on one device: one of the training step's, or `generate`.

    Follows `rl.train.update` with `train.loss.chunked_logprobs`, MTP layers frozen, and `engine.Engine`, whose cache
    stays while the trainer works, with `engine.pool`'s copy of the weights in main memory. `layout.mtp` has no meaning
    here.
    """
    trained = replace(layout, mtp=False)
    frozen = model.num_parameters()[1]
    size = 2 if layout.dtype == "bfloat16" else 4
    table, every = model.vocab_size * model.hidden_size, sum(model.num_parameters())
    engine = size * float(every)
    if layout.device == "cpu" and layout.dtype == "float32":
        engine += 4 * (every - (0 if model.tie_word_embeddings else table))  # its kernels pack what they multiply with
    engines = max(1, beside.processes)
    engine *= engines
    if layout.device == "cpu":  # the pool's copy for engines that are replaced; what processes share with the trainer
        engine += 4.0 * every * (1 + beside.processes)
    # Logits, sorted for top-p, and what is made of them.
    sampled = 16.0 * engines * beside.batch_size * model.vocab_size
    slots = layout.rows * layout.context
    chunk = min(slots, layout.chunk_tokens or chunk_of(model.vocab_size, layout.device)) * model.vocab_size
    # Logits, a copy that becomes their slopes, and a product of both; going back, the head's share of a chunk.
    logits = max(12 * chunk, 4 * chunk + (size * chunk + 2 * table if size == 2 else 0))
    found = []
    for memory in moments(model, trained):
        parts = {**memory.parts, "reserve": 0.0}
        parts["weights"] += 4 * frozen
        parts["copies"] += 2 * frozen * (size == 2) + size * every * beside.streams
        if beside.offload:
            parts["optimizer"] = 8 * table if memory.moment == "update" else 0.0
        if memory.moment == "loss":
            parts["logits"] = logits
        if beside.streams:
            parts["logits"] += sampled
        found.append((memory.moment, {**parts, "engine": engine, "cache": engines * beside.cache_bytes}))
    resting = found[0][1]
    found.append(
        (
            "generate",
            {
                **resting,
                **dict.fromkeys(("gradients", "activations", "attention", "logits"), 0.0),
                "logits": sampled,
            },
        )
    )
    return max((_with_rl_reserve(name, parts, layout) for name, parts in found), key=lambda memory: memory.total)


def _with_rl_reserve(moment: str, parts: dict[str, float], layout: Layout) -> Memory:
    reserve = CPU_RESERVE_BYTES[layout.dtype]
    if layout.device == "cuda":
        reserve = GPU_RESERVE_BYTES + GPU_RESERVE_SHARE * sum(parts.values())
    return Memory(moment, {name: {**parts, "reserve": reserve}[name] for name in RL_PARTS})
