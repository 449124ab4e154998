"""Metrics for Prometheus, in a registry of the app's own. docs/metrics.md lists them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.card import ModelCard
from service.context import current

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Serving(NamedTuple):
    """What is true at this moment of the model that serves."""

    ready: bool
    waiting: int
    """Pictures that wait for an engine."""
    oldest_s: float
    """How long the first of them has waited; 0 without any."""
    engines: dict[str, int]
    """Number of engines by state."""
    card: ModelCard | None
    """None while it is being loaded, like the next two."""
    provider: str
    nodes: dict[str, int]
    """Nodes of the graph by the provider that runs them, of one engine."""


class Metrics:
    """What is counted and measured. `watch` tells where to look for what is true at the moment of scraping."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "segdepth_requests",
            "Answers, by route, HTTP status and reason (ok, or the kind of problem).",
            ["route", "status", "reason"],
            registry=self._registry,
        )
        self.stage_seconds = Histogram(
            "segdepth_stage_seconds",
            "Seconds of a picture by stage; infer is that of the whole batch.",
            ["stage"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self.batch_size = Histogram(
            "segdepth_batch_size",
            "Pictures an engine was given at once.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self._registry,
        )
        self.batches = Counter(
            "segdepth_batches",
            "Batches, by engine and by why they were not larger: full, empty (nothing else waited), size or shared.",
            ["engine", "released"],
            registry=self._registry,
        )
        self.dropped = Counter(
            "segdepth_dropped",
            "Pictures that were dropped before an engine, by reason: deadline or cancelled.",
            ["reason"],
            registry=self._registry,
        )
        self.failures = Counter(
            "segdepth_engine_failures", "Batches an engine failed on.", ["engine"], registry=self._registry
        )
        self.workers_lost = Counter(
            "segdepth_pixel_processes_lost",
            "Processes of SEGDEPTH_PIXEL_WORKERS that died and were replaced.",
            registry=self._registry,
        )
        self.reloads = Counter(
            "segdepth_reloads", "Reloads of the model, by result: ok or failed.", ["result"], registry=self._registry
        )

    def watch(self, look: Callable[[], Serving]) -> None:
        """Show what `look` tells whenever the metrics are read."""
        self._registry.register(_ServingCollector(look))

    def observe_stages(self, **seconds: float) -> None:
        """Count the stages of one picture, also for the `Server-Timing` of the current request: of several pictures,
        which go side by side, that has the longest of each stage."""
        stages = current().stages
        for name, value in seconds.items():
            self.stage_seconds.labels(name).observe(value)
            stages[name] = max(stages.get(name, 0.0), value)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _ServingCollector(Collector):
    def __init__(self, look: Callable[[], Serving]) -> None:
        self._look = look

    def collect(self) -> Iterable[Metric]:
        now = self._look()
        yield GaugeMetricFamily("segdepth_ready", "1 while pictures are answered.", value=float(now.ready))
        yield GaugeMetricFamily("segdepth_queue_length", "Pictures that wait for an engine.", value=now.waiting)
        yield GaugeMetricFamily(
            "segdepth_queue_oldest_seconds", "How long the first of them has waited.", value=now.oldest_s
        )
        engines = GaugeMetricFamily("segdepth_engines", "Engines, by state: loading, ready or lost.", labels=["state"])
        for state, count in now.engines.items():
            engines.add_metric([state], count)
        yield engines
        names = ["name", "version", "network", "backbone", "precision", "provider"]
        model = GaugeMetricFamily("segdepth_model_info", "1, with the model that is served.", labels=names)
        nodes = GaugeMetricFamily(
            "segdepth_model_nodes", "Nodes of the graph that a provider runs.", labels=["provider"]
        )
        if card := now.card:
            labels = [card.name, card.version, card.network, card.backbone, card.precision, now.provider]
            model.add_metric(labels, 1)
            for provider, count in now.nodes.items():
                nodes.add_metric([provider], count)
        yield model
        yield nodes
