"""What /metrics tells Prometheus: read from the engine when it asks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from openmimo.engine.server.thread import EngineThread


def registry_of(worker: EngineThread) -> CollectorRegistry:
    """A registry with one engine's figures."""
    registry = CollectorRegistry()
    registry.register(_EngineMetrics(worker))
    ProcessCollector(registry=registry)  # memory, CPU seconds, open files
    return registry


class _EngineMetrics:
    """Counters and gauges of an engine and its queue."""

    def __init__(self, worker: EngineThread) -> None:
        self._worker = worker

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        worker = self._worker
        engine = worker.engine
        stats, pool = engine.stats, engine.scheduler.pool
        for name, value, text in (
            ("steps", stats.num_steps, "Iterations of the scheduler"),
            ("prompt_tokens", stats.num_prompt_tokens, "Prompt tokens computed; shared prefixes count once"),
            ("generated_tokens", stats.num_generated_tokens, "Tokens generated"),
            ("finished", stats.num_finished, "Sequences finished"),
            ("aborted", stats.num_aborted, "Sequences aborted"),
            ("preempted", stats.num_preempted, "Preemptions"),
            ("refused", worker.num_refused, "Calls answered 429: the queue was full"),
            ("failed_steps", worker.num_failed_steps, "Steps of the engine that failed"),
        ):
            yield CounterMetricFamily(f"openmimo_{name}", text, value=value)
        yield _by_position("openmimo_draft_tokens", "Drafts verified, by position: once all before it were kept",
                           engine.acceptance.judged)  # fmt: skip
        yield _by_position("openmimo_draft_accepted", "Drafts kept, by position", engine.acceptance.accepted)
        for name, number, text in (
            ("requests_running", worker.num_running, "Sequences in the running batch"),
            ("requests_waiting", worker.num_waiting, "Sequences that wait for a place in it"),
            ("calls_open", len(worker.calls), "HTTP calls that are being answered"),
            ("tasks", len(asyncio.all_tasks()), "asyncio tasks, this request's among them"),
            ("blocks_free", pool.num_free, "Cache blocks nobody holds"),
            ("blocks", pool.num_blocks, "Cache blocks"),
            ("policy_version", engine.policy_version, "Version of the weights"),
        ):
            yield GaugeMetricFamily(f"openmimo_{name}", text, value=number)


def _by_position(name: str, text: str, counts: list[int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=["position"])
    for position, count in enumerate(list(counts), start=1):
        family.add_metric([str(position)], count)
    return family
