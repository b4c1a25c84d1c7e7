"""One run of our own engine for the bench: a Load as JSON in, a Told as JSON out; the journal is written as always."""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from provision import bundled
from provision.audit.evidence import Snapshot
from provision.audit.metrics import Metrics
from provision.audit.verdict import judge
from provision.fixtures.ids import row_id
from provision.load import engine, spec
from provision.load.http import Origin
from provision.load.outcomes import classifier
from provision.load.request import Template
from provision.load.results import Results
from provision.load.session import Job

HEAD = bundled.find("scenarios", "scanner-burst")[1].split("scenarios:")[0]
TICKETS = 10_000


def job(load: dict[str, Any]) -> Job:
    executor: dict[str, Any] = {"executor": "constant-vus", "vus": load["vus"], "duration": f"{load['seconds']}s",
                                "pause": f"{load['pause']}s"}  # fmt: skip
    if load["rate"]:
        executor = {"executor": "constant-arrival-rate", "rate": load["rate"], "duration": f"{load['seconds']}s",
                    "preAllocatedVUs": load["vus"]}  # fmt: skip
    text = f"{HEAD}tickets: reuse\nscenarios: {{burst: {json.dumps(executor)}}}"
    scenario = spec.parse(Path("bench.yaml"), text)
    origin = Origin.parse(load["url"], Path(load["ca_file"]) if load["ca_file"] else None)
    template = Template(scenario.request, origin, {"apikey": "k" * 40}, frozenset({"id"}))
    tickets = [{"id": row_id("bench", 1, number)} for number in range(TICKETS)]
    return Job(scenario, origin, template, classifier(scenario.outcomes), tickets, {}, seed="bench")


def resident_kb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def run(load: dict[str, Any]) -> tuple[Results, float, list[int]]:
    """The results, the CPU seconds of the run, and the memory in KB every quarter of a second."""
    wanted, memory = job(load), [0]
    with tempfile.TemporaryFile(dir=load["folder"]) as journal:
        before = time.process_time()
        results = engine.run(wanted, journal, watch=lambda _: memory.append(resident_kb()), check_canary=lambda _: None)
        return results, time.process_time() - before, memory[1:]


def told(load: dict[str, Any]) -> dict[str, Any]:
    results, cpu, memory = run(load)
    metrics = Metrics(results)
    count = metrics.get("http_reqs").statistic("count")
    kinds = metrics.outcomes("burst")
    if set(kinds) != {"admitted"}:
        raise RuntimeError(f"replies were not understood: {kinds}, {results.samples[:2]}")
    latency = {name: metrics.get("http_req_duration").statistic(name) for name in ("p(50)", "p(95)", "p(99)")}
    tool = {"generator", "arrivals", "complete"}  # there is no database here to judge the gate by
    judged = [f for f in judge(results, Snapshot(None, {}), ()).findings if f.promise in tool]
    worst = max(judged, key=lambda finding: finding.status)
    third = max(1, len(memory) // 3)
    return {
        "per_second": count / load["seconds"],
        "cpu_us": cpu / count * 1e6,
        "latency": latency,
        "dropped": results.dropped.get("burst", 0),
        "late_p99": metrics.lateness("burst").percentile(99),
        "verdict": worst.status.name,
        "more": {
            "response p(99)": metrics.get("http_req_response_time").statistic("p(99)"),
            "memory first third MB": max(memory[:third]) / 1024,
            "memory last third MB": max(memory[-third:]) / 1024,
            "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "requests": count,
            "cpu share": results.generator.cpu,
        },
    }


if __name__ == "__main__":
    print(json.dumps(told(json.loads(sys.argv[1]))))
