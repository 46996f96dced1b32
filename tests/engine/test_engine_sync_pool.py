"""New weights under way, several engines, and engines that need what is not installed."""

import importlib.util

import pytest
import torch

from openmimo.engine.engine import Engine, EngineConfig
from openmimo.engine.pool import EnginePool, RayEngine
from openmimo.engine.sync import load_weights
from openmimo.engine.vllm import VllmEngine
from openmimo.model.config import MiMoConfig
from openmimo.model.mimo import MiMo
from openmimo.types import Request, Sampling

TINY = MiMoConfig(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    initializer_range=0.3,
)
SIZES = EngineConfig(max_batch_size=8, max_model_len=64)
REQUESTS = [Request(tuple(range(1, 20 + n)), Sampling(20, seed=n)) for n in range(12)]


def model(seed: int) -> MiMo:
    return MiMo(TINY).init_weights(torch.Generator().manual_seed(seed))


def test_new_weights_give_the_tokens_of_a_new_engine_and_carry_their_version() -> None:
    engine = Engine(model(1), SIZES, policy_version=3)
    assert {r.policy_version for r in engine.generate(REQUESTS)} == {3}
    engine.update_weights(model(2).state_dict(), 4)
    assert engine.scheduler.pool.num_cached == 0
    assert engine.generate(REQUESTS) == Engine(model(2), SIZES, policy_version=4).generate(REQUESTS)


def test_new_weights_are_refused_while_sequences_run() -> None:
    engine = Engine(model(1), SIZES)
    engine.submit(REQUESTS[0])
    engine.step()
    with pytest.raises(ValueError, match="1 sequences are active"):
        engine.update_weights(model(2).state_dict(), 1)
    assert engine.policy_version == 0


def test_recompute_active_goes_on_under_the_new_weights_with_the_version_of_the_first_token() -> None:
    engine = Engine(model(1), SIZES)
    handle = engine.submit(REQUESTS[0])
    for _ in range(5):
        engine.step()
    begun = engine.partial(handle).token_ids
    engine.update_weights(model(2).state_dict(), 1, recompute_active=True)
    done: dict = {}
    while engine.num_active:
        done.update(engine.step())
    rollout = done[handle]
    assert rollout.policy_version == 0
    assert rollout.token_ids[: len(begun)] == begun
    # What follows is what the new weights say after the tokens so far, at the same token indices.
    fresh = Engine(model(2), SIZES)
    again = fresh.submit(REQUESTS[0])
    fresh._live[again].token_ids += begun
    fresh._live[again].logprobs += rollout.logprobs[: len(begun)]
    while fresh.num_active:
        for _, other in fresh.step():
            assert other.token_ids == rollout.token_ids
            assert other.logprobs == rollout.logprobs


def test_weights_that_do_not_fit_change_nothing() -> None:
    own = model(1)
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    wrong = dict(model(2).state_dict())
    with pytest.raises(ValueError, match=r"missing \['lm_head.weight'\], unknown \['head'\]"):
        load_weights(own, {("head" if name == "lm_head.weight" else name): t for name, t in wrong.items()})
    with pytest.raises(ValueError, match=r"model.norm.weight has shape \(31,\), the model's is \(32,\)"):
        load_weights(own, wrong | {"model.norm.weight": torch.ones(31)})
    assert all(torch.equal(tensor, before[name]) for name, tensor in own.state_dict().items())


def test_a_pool_gives_the_rollouts_of_one_engine() -> None:
    pool = EnginePool([Engine(model(1), SIZES), Engine(model(1), SIZES)])
    assert pool.generate(REQUESTS) == Engine(model(1), SIZES).generate(REQUESTS)
    assert pool.num_active == 0
    pool.update_weights(model(2).state_dict(), 1)
    assert pool.generate(REQUESTS) == Engine(model(2), SIZES, policy_version=1).generate(REQUESTS)
    pool.close()


def test_a_pool_spreads_requests_and_aborts_where_they_went() -> None:
    engines = [Engine(model(1), SIZES), Engine(model(1), SIZES)]
    pool = EnginePool(engines)
    handles = [pool.submit(request) for request in REQUESTS]
    assert [engine.num_active for engine in engines] == [6, 6]
    pool.step()
    with pytest.raises(ValueError, match="12 sequences are active"):
        pool.update_weights(model(2).state_dict(), 1)
    for handle in handles:
        pool.abort(handle)
    assert [engine.num_active for engine in engines] == [0, 0] and pool.num_active == 0
    pool.close()
    with pytest.raises(ValueError, match="at least 1 engine"):
        EnginePool([])


def test_a_failing_engine_loses_nothing_that_another_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = [Engine(model(1), SIZES), Engine(model(1), SIZES)]
    pool = EnginePool(engines)
    handles = [pool.submit(Request((1, 2), Sampling(1, seed=n))) for n in range(2)]
    with monkeypatch.context() as patch:
        patch.setattr(engines[0].runner, "logits", lambda *_: (_ for _ in ()).throw(MemoryError("no room")))
        with pytest.raises(MemoryError):
            pool.step()
    done: dict = {}
    while pool.num_active:
        done.update(pool.step())
    assert sorted(done) == handles
    pool.close()


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_a_ray_engine_says_what_to_install() -> None:
    with pytest.raises(ValueError, match=r"pip install 'openmimo\[ray\]'"):
        RayEngine(lambda: Engine(model(1), SIZES))


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
@pytest.mark.slow
def test_ray_actors_give_the_rollouts_of_one_engine() -> None:
    def build() -> Engine:
        return Engine(model(1), SIZES)

    pool = EnginePool([RayEngine(build), RayEngine(build)])
    assert pool.generate(REQUESTS) == Engine(model(1), SIZES).generate(REQUESTS)
    pool.close()


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_its_engine_says_what_to_install(tmp_path) -> None:
    with pytest.raises(ValueError, match="needs vllm"):
        VllmEngine(tmp_path, max_model_len=64)
