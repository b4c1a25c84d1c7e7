"""The commands about finished runs; `provision.cli` puts them beside its own."""

from __future__ import annotations

import re
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from provision.errors import ConfigError

if TYPE_CHECKING:
    from provision.audit.comparison import Change
    from provision.history import Comparison, Line
    from provision.report.model import Report
    from provision.saved import Destination

_SCHEMAS = Path(__file__).parent / "schemas"
export = typer.Typer(help="Write a scenario for another tool.", no_args_is_help=True)
Run = Annotated[
    str | None,
    typer.Argument(metavar="[RUN]", help="A run's id or its beginning, RUN/scenario-1, or a folder; else the latest."),
]

Out = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FORM[=PLACE]",
        help="csv or ndjson: every request; prometheus: the metrics; otlp=URL: send them there. May be repeated.",
    ),
]


def report(
    run: Run = None,
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    json: Annotated[Path | None, typer.Option("--json", help="Also write the summary here.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Also write the page here.")] = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="Also write JUnit cases here.")] = None,
    out: Out = None,
) -> None:
    """Judge a finished run again from its saved values and write its report; needs no database.

    Exit code: that of the verdict; 0 with --open.

    Examples:
      provision report --open
      provision report 20260131-204500-x7kq3 --html night.html
      provision report --out prometheus=night.prom
    """
    from provision import history, rundir, saved
    from provision.report import terminal

    files = {form: path for form, path in (("json", json), ("html", html), ("junit", junit)) if path}
    for path in files.values():
        rundir.check_writable(path)
    destinations = [saved.destination(one) for one in out or ()]
    again, page = history.report(run, files, destinations)
    terminal.console(stderr=False).print(terminal.summary(again))
    typer.echo(f"\nreport: {page}")
    push(again, destinations)
    if open_ and not webbrowser.open(page.resolve().as_uri()):
        raise ConfigError("There is no browser to open it in.", hint=f"Open it yourself: {page.resolve().as_uri()}")
    raise typer.Exit(int(again.verdict.exit_code) if not open_ else 0)


def push(report: Report, out: Sequence[Destination]) -> None:
    """Send the metrics to the collectors among the destinations, and warn of those that did not take them."""
    from provision import saved

    for warning in saved.push(report, out):
        typer.secho(f"warning: {warning}", err=True, fg=typer.colors.YELLOW)


def runs() -> None:
    """List the finished runs of this folder with verdict and p(95).

    Example: provision runs
    """
    from provision import history

    found = history.lines()
    if not found:
        typer.echo("no finished run in this folder; start one with: provision seed, then provision run-scenario")
    for line in found:
        typer.echo(_line(line))


def _line(line: Line) -> str:
    p95 = "–" if line.p95 is None else f"{line.p95:.1f} ms"
    return f"{line.name:<40} {line.started}  {line.status:<12} p(95) {p95:>10}  {line.state}"


def compare(
    before: Annotated[str, typer.Argument(metavar="A", help="The run to compare with.")],
    after: Annotated[str, typer.Argument(metavar="B", help="The run in question.")],
    max_regression: Annotated[
        str | None, typer.Option(metavar="PERCENT", help="Exit 99 when a p(95) rose by more than this, such as 10%.")
    ] = None,
) -> None:
    """Say whether latency changed between two finished runs, with a 95 % interval of the change.

    The interval is Woodruff's with batch means, put together by MOVER; no zero in it: changed, at the 5 % level.
    Exit code with --max-regression: 99 when a p(95) rose by more, 98 when it may have.

    Examples:
      provision compare 20260131-204500-x7kq3 20260201-204500-h2m9p
      provision compare RUN/quick-1 RUN/quick-2 --max-regression 10%
    """
    from provision import history

    compared = history.compare(before, after, None if max_regression is None else _share(max_regression))
    _print_comparison(compared)
    raise typer.Exit(int(compared.exit_code))


def _share(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%?", text.strip())
    if not match:
        raise ConfigError(f"--max-regression: {text!r} is no percentage; write 10%.")
    return float(match[1]) / 100


@export.callback()
def _export() -> None:
    """Write a scenario for another tool."""


@export.command("k6")
def export_k6(
    scenario: Annotated[str, typer.Argument(help="A scenario file, or the name of a bundled one.")],
    tickets: Annotated[Path, typer.Option(help="The file that seed wrote.")] = Path("test-tickets.json"),
    out: Annotated[Path | None, typer.Option(help="Where the script goes; NAME.k6.js by default.")] = None,
) -> None:
    """Write a scenario as a k6 script, and beside it the environment file that the script needs.

    Examples:
      provision export k6 quick
      provision export k6 scenarios/scanner-burst.yaml --out burst.js && source burst.env && k6 run burst.js
    """
    from provision import pipeline

    script, env = pipeline.export_k6(scenario, tickets, out)
    typer.echo(f"wrote {script} and {env}")
    typer.echo(f"next: set SUPABASE_SECRET_KEY, then: source {env} && k6 run {script}")


_SAID = {
    "PASS": "no p(95) rose by more than {:.0%}",
    "INCONCLUSIVE": "these runs do not tell whether a p(95) rose by more than {:.0%}",
    "FAIL": "a p(95) rose by more than {:.0%}",
}


def _print_comparison(compared: Comparison) -> None:
    for sign, name, verdict in zip("AB", compared.names, compared.verdicts, strict=True):
        typer.echo(f"{sign}: {name}  {verdict}")
    typer.echo(f"\n{'scenario':<24} {'':<6} {'A ms':>9} {'B ms':>9} {'change':>8}  95 % interval")
    for change in compared.changes:
        numbers = f"{change.before:>9.2f} {change.after:>9.2f} {change.change:>+8.1%}"
        typer.echo(f"{change.scenario:<24} p({change.percent:g}) {numbers}  {_interval(change)}")
    if compared.limit is not None:
        typer.echo(f"\n{compared.status.name}: {_SAID[compared.status.name].format(compared.limit)}")


def _interval(change: Change) -> str:
    if change.interval is None:
        return "too few samples"
    low, high = change.interval
    return f"{low:+.1%} to {high:+.1%}: {'changed' if change.proven else 'no change shown'}"


def schema(
    name: Annotated[str, typer.Argument(help="summary, manifest or tickets.")],
) -> None:
    """Print the JSON schema of a file that this tool writes.

    Example: provision schema summary
    """
    from provision.yamlfile import unknown

    known = {path.name.removesuffix(".schema.json"): path for path in _SCHEMAS.glob("*.schema.json")}
    if name not in known:
        raise ConfigError(unknown("schema", name, known))
    typer.echo(known[name].read_text(encoding="utf-8"), nl=False)


COMMANDS: dict[str, Callable[..., None]] = {"report": report, "runs": runs, "compare": compare, "schema": schema}
