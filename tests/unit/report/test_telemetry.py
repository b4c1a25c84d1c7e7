"""The metrics in Prometheus's text format and over OTLP/HTTP, read back by the other side's own parsers."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest
from histories import History, good
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from prometheus_client.parser import text_string_to_metric_families
from reports import RUN, leave, report
from servers import closed_port

from provision import cli, saved
from provision.errors import ConfigError
from provision.report import machine, telemetry

TESTID = f"{RUN}/night-1"


@dataclass
class Collector:
    """A collector on loopback: what it was sent, by path, and the status with which it answers."""

    url: str = ""
    status: int = 200
    sent: list[tuple[str, bytes]] = field(default_factory=list)

    def metrics(self) -> dict[str, Metric]:
        """The metrics of all that was sent."""
        requests = [ExportMetricsServiceRequest.FromString(body) for _, body in self.sent]
        scopes = [scope for request in requests for r in request.resource_metrics for scope in r.scope_metrics]
        return {metric.name: metric for scope in scopes for metric in scope.metrics}


@contextmanager
def collecting(status: int = 200) -> Iterator[Collector]:
    collector = Collector(status=status)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.sent.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(collector.status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing is said."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        collector.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


def busy() -> History:
    """A good night, a round that was caught, an error, and an answer that took 400 ms."""
    history = good()
    history.race(70, ["admitted", "busy", "already_used"])
    history.store(70)
    history.ask("error", 71, status=503)
    history.ask("admitted", 72, ms=400.0)
    history.store(72)
    return history


def scraped(text: str) -> dict[tuple[str, str, str], float]:
    """The samples of a text by name, scenario and outcome; each carries the run."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert {sample.labels["testid"] for sample in samples} == {TESTID}
    found = {(s.name, s.labels.get("scenario", ""), s.labels.get("outcome", "")): s.value for s in samples}
    assert len(found) == len(samples)
    return found


def attributes(point: object) -> dict[str, str]:
    return {pair.key: pair.value.string_value for pair in point.attributes}  # type: ignore[attr-defined]


# -- Prometheus


def test_prometheus_text_says_what_the_summary_says_under_k6s_names(tmp_path: Path) -> None:
    judged = report(busy(), tmp_path)
    found, summary = scraped("".join(telemetry.as_prometheus(judged))), machine.summary(judged)
    for scenario, outcomes in summary["outcomes"].items():
        for outcome, count in outcomes.items():
            assert found["k6_iterations_total", scenario, outcome] == count
    whole = sum(value for (name, *_), value in found.items() if name == "k6_http_reqs_total")
    assert whole == summary["metrics"]["http_reqs"]["values"]["count"]
    assert found["k6_scan_duration_max", "burst", "admitted"] == pytest.approx(0.4)
    admitted = judged.verdict.metrics.get("scan_duration{scenario:burst,outcome:admitted}")
    assert found["k6_scan_duration_p95", "burst", "admitted"] == pytest.approx(admitted.statistic("p(95)") / 1000)
    assert found["k6_scan_errors_rate", "burst", "error"] == 1
    assert found["k6_vus", "", ""] == summary["metrics"]["vus"]["values"]["value"]


def test_requests_that_were_never_begun_are_counted_once_for_each_scenario(tmp_path: Path) -> None:
    history = busy()
    history.changes["dropped"] = {"burst": 7}
    found = scraped("".join(telemetry.as_prometheus(report(history, tmp_path))))
    dropped = {key: value for key, value in found.items() if key[0] == "k6_dropped_iterations_total"}
    assert dropped == {("k6_dropped_iterations_total", "burst", ""): 7, ("k6_dropped_iterations_total", "race", ""): 0}


def test_a_run_without_a_request_has_metrics_of_the_run_only(tmp_path: Path) -> None:
    found = scraped("".join(telemetry.as_prometheus(report(History(), tmp_path))))
    assert {outcome for _, _, outcome in found} == {""}


# -- OpenTelemetry


def test_a_collector_gets_what_the_summary_says(tmp_path: Path) -> None:
    judged = report(busy(), tmp_path)
    with collecting() as collector:
        assert telemetry.push(judged, collector.url) is None
    assert [path for path, _ in collector.sent] == ["/v1/metrics"]
    metrics, summary = collector.metrics(), machine.summary(judged)["metrics"]
    points = metrics["http_reqs"].sum.data_points
    assert sum(point.as_double for point in points) == summary["http_reqs"]["values"]["count"]
    assert {attributes(point)["testid"] for point in points} == {TESTID}
    assert {point.time_unix_nano - point.start_time_unix_nano for point in points} == {10_000_000_000}
    errors = {(a["scenario"], a["outcome"], a["condition"]): p.as_int for p in metrics["scan_errors"].sum.data_points
              if (a := attributes(p))}  # fmt: skip
    assert (errors["burst", "error", "nonzero"], errors["burst", "error", "zero"]) == (1, 0)
    assert errors["burst", "admitted", "nonzero"] == 0


def test_a_histogram_holds_every_sample_once_and_at_its_place(tmp_path: Path) -> None:
    judged = report(busy(), tmp_path)
    with collecting() as collector:
        telemetry.push(judged, f"{collector.url}/other/path")
    assert [path for path, _ in collector.sent] == ["/other/path"]
    duration = collector.metrics()["scan_duration"]
    assert duration.unit == "ms"
    by_kind = {(a["scenario"], a["outcome"]): p for p in duration.histogram.data_points if (a := attributes(p))}
    slow = by_kind["burst", "admitted"]
    values = [(r.last - r.sent) / 1e6 for r in judged.results.records()
              if judged.results.parts[r.part].name == "burst" and str(r.named) == "admitted"]  # fmt: skip
    edges = [float("-inf"), *slow.explicit_bounds, float("inf")]
    expected = [sum(low < value <= high for value in values) for low, high in pairwise(edges)]
    assert list(slow.bucket_counts) == expected
    assert (slow.count, slow.max) == (len(values), pytest.approx(400))
    assert slow.sum == pytest.approx(sum(values))


@pytest.mark.parametrize("status", [None, 401, 400])
def test_a_collector_that_does_not_take_them_is_a_warning_that_quotes_no_password(
    status: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")
    monkeypatch.chdir(tmp_path)
    leave(good(), Path(".provision"))
    with collecting(status or 200) as collector:
        port = closed_port() if status is None else int(collector.url.rpartition(":")[2])
        code = cli.run(["report", "--out", f"otlp=http://door:hunter2@127.0.0.1:{port}/v1/metrics?token=hunter3"])
    told = capfd.readouterr()
    assert code == cli.run(["report"]) == 0
    assert f"warning: The collector at 127.0.0.1:{port} did not take the metrics" in told.err
    assert "hunter" not in told.out + told.err
    assert "PASS" in told.out


def test_a_client_that_raises_does_not_change_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(OTLPMetricExporter, "__init__", lambda *_, **__: int("soon"))
    monkeypatch.chdir(tmp_path)
    leave(good(), Path(".provision"))
    assert cli.run(["report", "--out", "otlp=http://127.0.0.1:1"]) == 0
    assert "did not take the metrics (ValueError)" in capfd.readouterr().err


# -- what is asked for


@pytest.mark.parametrize("option", ["prometheus=there.prom", "otlp=http://127.0.0.1:4318"])
def test_a_missing_extra_is_said_with_the_command_that_installs_it(
    option: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for module in telemetry.PACKAGES.values():
        monkeypatch.setitem(sys.modules, module, None)
    assert cli.run(["report", "--out", option]) == 104
    assert "pip install 'provision[export]'" in capfd.readouterr().err


@pytest.mark.parametrize(
    "url", ["", "localhost:4318", "ftp://127.0.0.1", "http://", "http://127.0.0.1:x", "http://[::1"]
)
def test_what_is_no_url_of_a_collector_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="takes the URL of a collector"):
        saved.destination(f"otlp={url}")


def test_a_finished_run_is_exported_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = leave(busy(), Path(".provision"))
    with collecting() as collector:
        options = ["prometheus", "prometheus=night.prom", f"otlp={collector.url}"]
        assert cli.run(["report", *(word for option in options for word in ("--out", option))]) == 99
    assert len(collector.sent) == 1
    text = (folder.path / "metrics.prom").read_text()
    assert text == Path("night.prom").read_text()
    assert scraped(text)["k6_successful_scans_total", "burst", "admitted"] > 0
