"""Blocks and scheduling: nothing leaks, nothing starves, prefixes are shared."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmimo.engine.blocks import BlockPool, block_key
from openmimo.engine.scheduler import Plan, Scheduler
from openmimo.engine.sequence import Sequence
from openmimo.types import Request, Sampling


def scheduler(num_blocks: int = 16, *, rows: int = 4, chunk: int = 100, drafts: int = 0) -> Scheduler:
    return Scheduler(BlockPool(num_blocks, 4), max_batch_size=rows, prefill_chunk=chunk, num_draft_layers=drafts)


def add(target: Scheduler, handle: int, prompt: list[int], max_new_tokens: int = 8) -> Sequence:
    sequence = Sequence(handle, Request(tuple(prompt), Sampling(max_new_tokens)))
    target.add(sequence)
    return sequence


def run(target: Scheduler, plan: Plan, token: int = 7) -> None:
    """Commit a plan the way the engine does, every draft rejected."""
    for work in plan.works:
        work.sequence.num_computed = work.start + work.num_tokens
        if work.samples:
            work.sequence.append(token, 0.0, 0.0, (), max_model_len=1000)
            work.sequence.draft_ids = [1] * target.num_draft_layers
    for work in plan.works:
        if work.sequence.finish_reason:
            target.remove(work.sequence)


def assert_books_balance(target: Scheduler) -> None:
    pool = target.pool
    held: dict[int, int] = {}
    for sequence in target.running:
        for block in sequence.blocks:
            held[block] = held.get(block, 0) + 1
    assert held == {block: count for block, count in enumerate(pool._holders) if count}
    assert len(held) + pool.num_free == pool.num_blocks
    rows = [sequence.row for sequence in target.running]
    assert len(set(rows)) == len(rows) and all(row >= 0 for row in rows)
    assert not any(sequence.blocks for sequence in target.waiting)
    handles = [sequence.handle for sequence in target.waiting]
    assert handles == sorted(handles)


def test_a_block_is_reused_longest_unused_first_and_forgotten_then() -> None:
    pool = BlockPool(2, 4)
    first, second = pool.allocate(), pool.allocate()
    assert pool.allocate() is None
    assert first is not None and second is not None
    pool.publish(first, b"a")
    pool.publish(second, b"b")
    pool.release(second)
    pool.release(first)
    assert pool.allocate() == second
    assert pool.find(b"b") is None
    assert pool.find(b"a") == first


def test_holding_a_cached_block_takes_it_from_the_free_ones() -> None:
    pool = BlockPool(2, 4)
    block = pool.allocate()
    assert block is not None
    pool.publish(block, b"a")
    pool.release(block)
    pool.hold(block)
    assert pool.num_free == 1
    pool.hold(block)
    pool.release(block)
    assert pool.num_free == 1
    pool.release(block)
    assert pool.num_free == 2


def test_a_key_names_the_whole_prefix_and_the_lookahead() -> None:
    tokens = [1, 2, 3, 4, 5, 6, 7, 8]
    assert block_key(b"", tokens, 0, 4, 0) == block_key(b"", [1, 2, 3, 4, 9], 0, 4, 0)
    assert block_key(b"", tokens, 0, 4, 1) != block_key(b"", [1, 2, 3, 4, 9], 0, 4, 1)
    assert block_key(block_key(b"", tokens, 0, 4, 0), tokens, 4, 4, 0) != block_key(b"", tokens, 4, 4, 0)


def test_a_group_shares_its_prompt_in_the_very_step_that_computes_it() -> None:
    target = scheduler()
    for handle in range(4):
        add(target, handle, list(range(10)))
    works = target.plan().works
    assert [(w.start, w.num_tokens) for w in works] == [(0, 10), (8, 2), (8, 2), (8, 2)]
    assert len({w.sequence.blocks[0] for w in works}) == len({w.sequence.blocks[1] for w in works}) == 1
    assert len({w.sequence.blocks[2] for w in works}) == 4
    assert_books_balance(target)


def test_the_last_token_of_a_fully_cached_prompt_is_computed_for_its_logits() -> None:
    target = scheduler()
    add(target, 0, list(range(8)), max_new_tokens=1)
    run(target, target.plan())
    again = add(target, 1, list(range(8)))
    work = target.plan().works[0]
    assert (work.start, work.num_tokens) == (4, 4)
    assert work.samples and again.row >= 0


def test_with_draft_layers_a_block_is_shared_only_if_the_tokens_after_it_agree() -> None:
    target = scheduler(drafts=2)
    add(target, 0, [1, 2, 3, 4, 5, 6, 7])
    add(target, 1, [1, 2, 3, 4, 5, 6, 9])
    add(target, 2, [1, 2, 3, 4, 5, 9, 7])
    assert [w.start for w in target.plan().works] == [0, 4, 0]


def test_prompts_are_cut_to_the_chunk_and_decoding_goes_on_beside_them() -> None:
    target = scheduler(chunk=6)
    add(target, 0, [1] * 3)
    add(target, 1, [2] * 9)
    plan = target.plan()
    assert [(w.start, w.num_tokens) for w in plan.works] == [(0, 3), (0, 3)]
    run(target, plan)
    assert [(w.start, w.num_tokens) for w in target.plan().works] == [(3, 1), (3, 6)]


def test_when_blocks_run_out_the_latest_arrival_waits_and_comes_back() -> None:
    target = scheduler(num_blocks=4)
    first, second = add(target, 0, [1] * 7, 20), add(target, 1, [2] * 7, 20)
    preempted = 0
    for _ in range(8):
        plan = target.plan()
        preempted += plan.num_preempted
        run(target, plan)
        assert_books_balance(target)
    assert preempted == 1
    assert list(target.waiting) == [second]
    assert len(first.logprobs) > len(second.logprobs) > 0
    target.remove(first)
    work = target.plan().works[0]
    assert work.sequence is second and work.start + work.num_tokens == len(second.token_ids)


def test_drafts_are_given_up_before_anybody_is_preempted() -> None:
    target = scheduler(num_blocks=2, drafts=3)
    sequence = add(target, 0, [1] * 6)
    run(target, target.plan())  # 7 known tokens; three drafts would need positions up to 9, a third block
    plan = target.plan()
    assert plan.num_preempted == 0
    assert [(w.num_tokens, w.num_drafts) for w in plan.works] == [(1, 0)]
    assert sequence.draft_ids == []


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(1, 14), st.integers(0, 1), st.integers(1, 9)),
            st.tuples(st.just("step"), st.integers(0, 2)),
            st.tuples(st.just("abort"), st.integers(0, 100)),
        ),
        max_size=40,
    ),
    st.integers(0, 2),
    st.booleans(),
)
def test_nothing_leaks_whatever_happens_and_everybody_finishes(events: list, drafts: int, share: bool) -> None:
    target = Scheduler(
        BlockPool(7, 4), max_batch_size=3, prefill_chunk=5, num_draft_layers=drafts, share_prefixes=share
    )
    handle = 0
    for event in events:
        if event[0] == "add":
            _, length, kind, max_new_tokens = event
            add(target, handle, [kind] * length, max_new_tokens)
            handle += 1
        elif event[0] == "step":
            run(target, target.plan(), token=event[1])
        else:
            active = target.running + list(target.waiting)
            if active:
                target.remove(active[event[1] % len(active)])
        assert_books_balance(target)
    for _ in range(3000):
        if not target.num_active:
            break
        run(target, target.plan())
        assert_books_balance(target)
    assert target.num_active == 0
    assert target.pool.num_free == target.pool.num_blocks


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0 and 4"):
        BlockPool(0, 4)
