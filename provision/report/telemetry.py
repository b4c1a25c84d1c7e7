"""The metrics of a finished run for Prometheus and OpenTelemetry, through their own client libraries.

Names, units and kinds are those of k6's outputs, so that dashboards made for k6 show them: for Prometheus `k6_` and
`_total`, `_rate` or `_p95`, trends in s (its remote write output); for OpenTelemetry bare names, trends as histograms
in ms, rates as counters by `condition` (its `opentelemetry` output from 1.4 on). Tags: `testid`, which is the run as
`provision runs` lists it, `scenario` and `outcome`.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from provision import __version__
from provision.audit import metrics
from provision.audit.metrics import KINDS, WHOLE_RUN, Counter, Metric, Rate, Trend
from provision.errors import ConfigError
from provision.report.model import Report

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import DataT, HistogramDataPoint, MetricsData
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector

PACKAGES = {"prometheus": "prometheus_client", "otlp": "opentelemetry.exporter.otlp.proto.http.metric_exporter"}
"""What each form needs of the extra `export`."""
BOUNDS = (0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1000.0, 2500.0, 5000.0, 7500.0, 10000.0)
"""OpenTelemetry's default bounds of a histogram, which k6 uses for ms."""
_BY_SCENARIO = frozenset({"dropped_iterations"})
"""Metrics of requests that never came to an outcome."""
_TREND: Mapping[str, str] = {"p90": "p(90)", "p95": "p(95)", "p99": "p(99)"} | {
    n: n for n in ("avg", "min", "med", "max")
}

Point = tuple[Mapping[str, str], Metric]


def require(form: str) -> None:
    """Raise ConfigError when the packages that a form needs are not installed."""
    try:
        import_module(PACKAGES[form])
    except ImportError as error:
        raise ConfigError(
            f"--out {form} needs a package that is not installed ({error.name}).",
            hint="Install it with: pip install 'provision[export]'",
        ) from None


def points(report: Report) -> dict[str, list[Point]]:
    """By k6's names the tagged metrics of each scenario and outcome, those without samples left out."""
    of = report.verdict.metrics
    scenarios = [part.name for part in report.results.parts if part.measured]
    each = [{"scenario": scenario, "outcome": outcome} for scenario in scenarios for outcome in of.outcomes(scenario)]
    run = {"testid": "/".join(Path(report.run["folder"]).parts[-2:])}
    found: dict[str, list[Point]] = {}
    for name in KINDS:
        by_scenario = [{"scenario": scenario} for scenario in scenarios]
        tagged: list[dict[str, str]] = [{}] if name in WHOLE_RUN else by_scenario if name in _BY_SCENARIO else each
        for tags in tagged:
            selector = ",".join(f"{tag}:{value}" for tag, value in tags.items())
            metric = of.get(f"{name}{{{selector}}}")
            if metric.samples:
                found.setdefault(name, []).append((run | tags, metric))
    return found


# -- Prometheus


def as_prometheus(report: Report) -> Iterator[str]:
    """The metrics in Prometheus's text format, as the node exporter's textfile collector reads it."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    families = [family for name, found in points(report).items() for family in _families(name, found)]
    registry.register(cast("Collector", _Collected(families)))
    yield generate_latest(registry).decode()


@dataclass(frozen=True, slots=True, eq=False)
class _Collected:
    """What the client's registry asks for its metrics."""

    families: Sequence[CounterMetricFamily | GaugeMetricFamily]

    def collect(self) -> Sequence[CounterMetricFamily | GaugeMetricFamily]:
        return self.families


def _families(name: str, found: list[Point]) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    labels = list(found[0][0])
    for suffix, value in _statistics(KINDS[name]).items():
        family = (CounterMetricFamily if KINDS[name] is Counter else GaugeMetricFamily)(
            f"k6_{name}{suffix}", f"k6's metric {name}.", labels=labels
        )
        for tags, metric in found:
            family.add_metric(list(tags.values()), value(metric))
        yield family


def _statistics(kind: type[Metric]) -> Mapping[str, Callable[[Metric], float]]:
    """The series that a kind of metric becomes, by their suffix; the client adds a counter's `_total`."""
    if kind is Trend:
        return {f"_{suffix}": _seconds(statistic) for suffix, statistic in _TREND.items()}
    if kind is Counter:
        return {"": lambda metric: metric.statistic("count")}
    return {"_rate" if kind is Rate else "": lambda metric: metric.statistic("")}


def _seconds(statistic: str) -> Callable[[Metric], float]:
    return lambda metric: metric.statistic(statistic) / 1000


# -- OpenTelemetry


def check_url(url: str) -> None:
    """Raise ConfigError for what is no URL of a collector."""
    try:
        parts = urlsplit(url)
        right = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        right = False
    if not right:
        raise ConfigError("--out otlp= takes the URL of a collector.", hint="Write --out otlp=http://127.0.0.1:4318")


def push(report: Report, url: str) -> str | None:
    """Send the metrics to a collector over OTLP/HTTP, to `/v1/metrics` where the URL names no path; what went wrong, or
    None. Credentials, certificates and time-out are taken from the client's own variables, OTEL_EXPORTER_OTLP_*."""
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics.export import MetricExportResult

    parts = urlsplit(url)
    endpoint = url if parts.path.strip("/") else parts._replace(path="/v1/metrics").geturl()
    missed = f"The collector at {parts.hostname}{f':{parts.port}' if parts.port else ''} did not take the metrics"
    with _silenced("opentelemetry"):
        try:
            exporter = OTLPMetricExporter(endpoint=endpoint)
            done = exporter.export(_metrics_data(report))
            exporter.shutdown()
        except Exception as error:  # noqa: BLE001 - the verdict stands, whatever a client library says to its settings
            return f"{missed} ({type(error).__name__})."
    return None if done is MetricExportResult.SUCCESS else f"{missed}."


@contextmanager
def _silenced(name: str) -> Iterator[None]:
    """A library's log goes nowhere meanwhile: it quotes addresses, in which there may be a password."""
    logger = logging.getLogger(name)
    handlers, propagate = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [logging.NullHandler()], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = handlers, propagate


def _metrics_data(report: Report) -> MetricsData:
    from opentelemetry.sdk.metrics.export import Metric as Named
    from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    began = round(datetime.fromisoformat(report.run["started"]).timestamp() * 1e9)
    span = began, began + round(report.results.elapsed * 1e9)
    named = [
        Named(name, f"k6's metric {name}.", _unit(name), _data(KINDS[name], found, span))
        for name, found in points(report).items()
    ]
    scope = ScopeMetrics(InstrumentationScope("provision", __version__), named, "")
    resource = Resource({"service.name": "provision", "service.version": __version__})
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def _unit(name: str) -> str:
    return "ms" if KINDS[name] is Trend else "By" if name.startswith("data_") else ""


def _data(kind: type[Metric], found: Sequence[Point], span: tuple[int, int]) -> DataT:
    from opentelemetry.sdk.metrics.export import AggregationTemporality, Gauge, Histogram, NumberDataPoint, Sum

    whole = AggregationTemporality.CUMULATIVE
    if kind is Trend:
        return Histogram([_histogram(tags, m, span) for tags, m in found if isinstance(m, Trend)], whole)
    numbers = [NumberDataPoint(tags, *span, value) for point in found for tags, value in _numbers(*point)]
    return Gauge(numbers) if kind is metrics.Gauge else Sum(numbers, whole, is_monotonic=True)


def _numbers(tags: Mapping[str, str], metric: Metric) -> Iterator[tuple[Mapping[str, str], float]]:
    """A metric that is no trend as numbers: a rate as how many were hits, `nonzero`, and how many were not."""
    if isinstance(metric, Rate):
        yield {**tags, "condition": "nonzero"}, metric.hits
        yield {**tags, "condition": "zero"}, metric.total - metric.hits
    else:
        yield tags, metric.statistic("count" if isinstance(metric, Counter) else "value")


def _histogram(tags: Mapping[str, str], trend: Trend, span: tuple[int, int]) -> HistogramDataPoint:
    from opentelemetry.sdk.metrics.export import HistogramDataPoint

    ranks = (0, *trend.ranks)
    upto = [0, *(ranks[bisect_right(trend.values, bound)] for bound in BOUNDS), trend.samples]
    counts = [high - low for low, high in pairwise(upto)]
    total = trend.statistic("avg") * trend.samples
    return HistogramDataPoint(
        tags, *span, trend.samples, total, counts, BOUNDS, trend.statistic("min"), trend.statistic("max")
    )
