"""Engines that die: in this process and in their own, replaced by a pool without a trace in the rollouts."""

import functools
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from openmimo.engine.engine import Engine, EngineConfig
from openmimo.engine.pool import MAX_LOST, EnginePool
from openmimo.engine.process import EngineLost, ProcessEngine
from openmimo.model.config import MiMoConfig
from openmimo.model.mimo import MiMo
from openmimo.types import Request, Rollout, Sampling

TINY = MiMoConfig(
    vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, head_dim=16, initializer_range=0.3,
)  # fmt: skip
REQUESTS = [Request(tuple(range(1, 10 + n)), Sampling(12, seed=n), f"p{n}") for n in range(6)]


def model(seed: int) -> MiMo:
    return MiMo(TINY).init_weights(torch.Generator().manual_seed(seed))


def make_engine(seed: int) -> Engine:
    torch.set_num_threads(1)
    return Engine(model(seed), EngineConfig(max_batch_size=8, max_model_len=64))


class Dying(Engine):
    """Raises in its third step."""

    def step(self) -> list[tuple[int, Rollout]]:
        if self.stats.num_steps == 2:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().step()


def dying(number: int) -> Engine:
    return Dying(model(number), EngineConfig(max_batch_size=8, max_model_len=64))


def run_killing(pool: EnginePool, when: int) -> list[Rollout]:
    """The rollouts, with the first engine's process killed before step `when`."""
    handles = [pool.submit(request) for request in REQUESTS]
    done: dict[int, Rollout] = {}
    steps = 0
    while len(done) < len(handles):
        if steps == when:
            os.kill(pool.engines[0].pid, signal.SIGKILL)  # type: ignore[attr-defined]
        done.update(pool.step())
        steps += 1
    return [done[handle] for handle in handles]


def test_an_engine_that_raises_is_replaced_and_the_rollouts_are_those_of_one_that_did_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = make_engine(1).generate(REQUESTS)
    pool = EnginePool([dying(1), make_engine(1)], build=make_engine)
    pool.update_weights(model(1).state_dict(), 0)
    assert pool.generate(REQUESTS) == whole
    assert pool.num_lost == 1
    assert "engine 0 was lost (RuntimeError: CUDA error" in capsys.readouterr().err
    pool.close()


def test_a_new_engine_has_the_newest_weights_as_they_were_when_they_came() -> None:
    weights = model(2).state_dict()
    pool = EnginePool([dying(7)], build=make_engine)
    pool.update_weights(weights, 5)
    for tensor in weights.values():  # the trainer goes on, as with streamed updates
        tensor.zero_()
    rollouts = pool.generate(REQUESTS)
    fresh = make_engine(2)
    fresh.update_weights(model(2).state_dict(), 5)
    assert pool.num_lost == 1 and rollouts == fresh.generate(REQUESTS)
    assert {rollout.policy_version for rollout in rollouts} == {5}
    pool.close()


def test_a_request_that_kills_every_engine_ends_in_one_line() -> None:
    pool = EnginePool([dying(1)], build=dying)
    with pytest.raises(ValueError, match=rf"of problem 'p0' has lost its engine {MAX_LOST + 1} times, {MAX_LOST} are"):
        pool.generate(REQUESTS[:1])
    assert pool.num_lost == MAX_LOST + 1
    pool.close()


def test_a_refused_request_is_no_lost_engine() -> None:
    pool = EnginePool([make_engine(1)], build=make_engine)
    with pytest.raises(ValueError, match="prompt token id 99"):
        pool.submit(Request((99,), Sampling(1)))
    assert pool.num_lost == 0
    pool.close()


def test_a_process_generates_what_an_engine_here_does_with_new_weights_too_and_survives_its_killing() -> None:
    def build(number: int) -> ProcessEngine:
        return ProcessEngine(functools.partial(make_engine, 1))

    pool = EnginePool([build(0)], build=build)
    try:
        assert pool.generate(REQUESTS) == make_engine(1).generate(REQUESTS)
        pool.update_weights(model(2).state_dict(), 3)
        fresh = make_engine(2)
        fresh.update_weights(model(2).state_dict(), 3)
        whole = fresh.generate(REQUESTS)
        assert pool.generate(REQUESTS) == whole
        assert run_killing(pool, when=4) == whole and pool.num_lost == 1
        with pytest.raises(ValueError, match="prompt token id 99"):
            pool.submit(Request((99,), Sampling(1)))
        wrong = {name: tensor for name, tensor in model(2).state_dict().items() if "norm" not in name}
        with pytest.raises(ValueError, match="weights do not fit the model"):
            pool.engines[0].update_weights(wrong, 4)  # type: ignore[attr-defined]
    finally:
        pool.close()


def test_a_killed_process_says_how_it_ended() -> None:
    engine = ProcessEngine(functools.partial(make_engine, 1))
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineLost, match="ended with status -9"):
        engine.submit(REQUESTS[0])
    engine.close()


def test_the_process_ends_with_a_parent_that_is_killed(tmp_path) -> None:  # type: ignore[no-untyped-def]
    script = tmp_path / "parent.py"
    script.write_text(
        "import time, functools\nfrom test_engine_process import make_engine, ProcessEngine, REQUESTS\n"
        "if __name__ == '__main__':\n    engine = ProcessEngine(functools.partial(make_engine, 1))\n"
        "    engine.submit(REQUESTS[0])\n    print(engine.pid, flush=True)\n    time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])},
    )  # fmt: skip
    assert parent.stdout
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError(f"engine process {pid} outlives its parent")
