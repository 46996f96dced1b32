"""vLLM as the scale-out engine (MiMo 3.4.2), behind the embedded engine's interface.

Thin: vLLM schedules, caches and samples; this turns our nouns into its own and back. Its tokens are a function of batch
and kernels too, so the embedded engine's bitwise guarantee does not hold, and its speculation uses one MTP layer. vLLM
lives in an environment of its own, in which openmimo is installed too; `make check-vllm` builds one and compares greedy
tokens. Left out: stop texts, and log-probabilities under the raw model where the sampling distribution is another.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openmimo.engine.sample import check_sampling
from openmimo.types import FinishReason, Request, Rollout, Sampling


class VllmEngine:
    """A vLLM engine over a checkpoint folder in the released format."""

    def __init__(
        self,
        checkpoint: Path,
        *,
        max_model_len: int,
        max_batch_size: int = 256,
        tensor_parallel_size: int = 1,
        num_draft_tokens: int = 0,
        num_token_ids: int = 0,
        enforce_eager: bool = False,
        policy_version: int = 0,
        dtype: str = "auto",
    ) -> None:
        """
        Args:
            checkpoint: folder with config.json and safetensors; ids go in and out, so it needs no tokenizer.
            num_draft_tokens: drafted a step with the first MTP layer; 0 is plain decoding.
            num_token_ids: ids from here up are never sampled; 0: all may be.
            enforce_eager: start at once, without compiling the model.

        Raises:
            ValueError: when vLLM is not installed.
        """
        try:
            from vllm import EngineArgs, LLMEngine
        except ImportError as error:
            raise ValueError(
                "the vLLM engine needs vllm: pip install vllm openmimo, in an environment of its own"
            ) from error
        from openmimo.engine.vllm_config import register

        register()
        speculative: dict[str, Any] = {}
        if num_draft_tokens:
            speculative["speculative_config"] = {"method": "mtp", "num_speculative_tokens": num_draft_tokens}
        self.policy_version = policy_version
        self._num_token_ids = num_token_ids
        self._engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=str(checkpoint),
                skip_tokenizer_init=True,
                dtype=dtype,
                max_model_len=max_model_len,
                max_num_seqs=max_batch_size,
                tensor_parallel_size=tensor_parallel_size,
                enable_prefix_caching=True,
                enforce_eager=enforce_eager,
                logprobs_mode="processed_logprobs",  # under the sampling distribution, as Rollout says
                **speculative,
            )
        )
        self._live: dict[int, Request] = {}
        self._next_handle = 0

    @property
    def num_active(self) -> int:
        """Sequences submitted and not finished."""
        return len(self._live)

    def submit(self, request: Request) -> int:
        """Queue a request.

        Raises:
            ValueError: for a sampling that makes no sense, or that vLLM is not set up for here.
        """
        check_sampling(request.sampling)
        _check_supported(request.sampling)
        handle = self._next_handle
        self._next_handle += 1
        self._engine.add_request(
            str(handle),
            {"prompt_token_ids": list(request.prompt_ids)},
            _sampling_params(request.sampling, self._num_token_ids),
        )
        self._live[handle] = request
        return handle

    def step(self) -> list[tuple[int, Rollout]]:
        """One iteration of vLLM's scheduler."""
        finished = []
        for output in self._engine.step():
            handle = int(output.request_id)
            if output.finished and handle in self._live:
                finished.append((handle, _rollout(self._live.pop(handle), output, self.policy_version)))
        return finished

    def abort(self, handle: int) -> None:
        """Forget a sequence; a handle that is not active is ignored."""
        if self._live.pop(handle, None) is not None:
            self._engine.abort_request([str(handle)])

    def generate(self, requests: Sequence[Request]) -> list[Rollout]:
        """Run requests to their end on an idle engine; rollouts in the requests' order."""
        if self.num_active:
            raise ValueError(f"generate needs an idle engine, got {self.num_active} active sequences")
        handles = [self.submit(request) for request in requests]
        done: dict[int, Rollout] = {}
        while len(done) < len(handles):
            done.update(self.step())
        return [done[handle] for handle in handles]

    def reload_weights(self, version: int) -> None:
        """Read the checkpoint folder again, under a new policy version: the trainer has replaced its files.

        Raises:
            ValueError: when sequences are active.
        """
        if self.num_active:
            raise ValueError(f"{self.num_active} sequences are active: finish or abort them before new weights")
        self._engine.collective_rpc("reload_weights")
        self._engine.reset_prefix_cache()
        self.policy_version = version

    def drafts(self) -> tuple[int, int]:
        """Draft tokens judged and accepted since the engine began."""
        found = {metric.name: getattr(metric, "value", 0) for metric in self._engine.get_metrics()}
        names = ("vllm:spec_decode_num_draft_tokens", "vllm:spec_decode_num_accepted_tokens")
        judged, accepted = (int(found.get(name, 0)) for name in names)
        return judged, accepted


def _check_supported(sampling: Sampling) -> None:
    if sampling.stop:
        raise ValueError(f"the vLLM engine has no tokenizer for stop texts, got {sampling.stop}: give stop_token_ids")
    if sampling.top_logprobs or sampling.prompt_logprobs:
        raise ValueError(
            "the vLLM engine gives log-probabilities of sampled tokens alone, "
            f"got top_logprobs {sampling.top_logprobs}, prompt_logprobs {sampling.prompt_logprobs}"
        )
    if not sampling.max_new_tokens:
        raise ValueError("the vLLM engine generates at least one token, got max_new_tokens 0")


def _sampling_params(sampling: Sampling, num_token_ids: int) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        max_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        seed=None if sampling.seed is None else sampling.seed & (2**63 - 1),
        stop_token_ids=list(sampling.stop_token_ids),
        allowed_token_ids=list(range(num_token_ids)) if num_token_ids else None,
        ignore_eos=True,  # only the request's own stop tokens end it
        logprobs=0,  # of the sampled token alone
        detokenize=False,
    )


def _rollout(request: Request, output: Any, policy_version: int) -> Rollout:
    reasons: dict[str, FinishReason] = {"stop": "stop", "length": "length"}
    sampled = output.outputs[0]
    token_ids = tuple(sampled.token_ids)
    logprobs = tuple(at[token].logprob for at, token in zip(sampled.logprobs, token_ids, strict=True))
    sampling = request.sampling
    plain = sampling.temperature in (0.0, 1.0) and sampling.top_p == 1.0 and not sampling.top_k and not sampling.min_p
    return Rollout(
        problem_id=request.problem_id,
        prompt_ids=request.prompt_ids,
        token_ids=token_ids,
        logprobs=logprobs,
        policy_version=policy_version,
        finish_reason=reasons.get(sampled.finish_reason, "abort"),
        raw_logprobs=logprobs if plain else (),
    )
