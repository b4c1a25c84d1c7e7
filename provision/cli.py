"""The command line: the only file that parses arguments, prints and exits."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from provision import __version__, cli_history, cli_local
from provision.cli_errors import command, complain, our_fault, outlasting
from provision.errors import ConfigError, Interrupted, ProvisionError

SHOWN = 20
"""Rows of others that teardown names one by one."""

if TYPE_CHECKING:
    from rich.console import Console

    from provision.gateway.orphans import Orphan
    from provision.rehearsal import Rehearsal
    from provision.removing import TornDown
    from provision.report.live import Live
    from provision.seeding import Seeded

app = typer.Typer(
    name="provision",
    help="Rehearse an event night on a staging Supabase: seed, burst, race, verdict, teardown.",
    epilog="First time here? `provision demo --fast` shows all of it in half a minute, without Supabase or Docker.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
local = typer.Typer(
    help="The embedded Supabase: PostgreSQL and a compatible API on this machine.", no_args_is_help=True
)
app.add_typer(local, name="local")

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")]


def main() -> NoReturn:
    """The `provision` command."""
    signal.signal(signal.SIGTERM, _terminated)
    for name in ("stdout", "stderr"):
        setattr(sys, name, outlasting(getattr(sys, name)))
    sys.exit(run(sys.argv[1:]))


def _terminated(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def run(arguments: list[str]) -> int:
    """Carry out a command line; its exit code. Every error ends here as one message."""
    try:
        code = app(arguments, standalone_mode=False)
    except ProvisionError as error:
        return complain(error)
    except typer.Abort:
        return complain(Interrupted("Interrupted."))
    except Exception as error:  # noqa: BLE001 - the last door: a fault of ours becomes a log file, not a traceback
        if hasattr(error, "format_message"):
            return complain(ConfigError(error.format_message(), hint="See: provision --help"))
        return our_fault(error)
    return int(code or 0)


def _console(*, stderr: bool, quiet: bool = False) -> Console:
    from provision.report import terminal

    return terminal.console(stderr=stderr, quiet=quiet)


def _live(quiet: bool) -> Live:
    from provision.report.live import Live

    return Live(_console(stderr=True, quiet=quiet))


def _version(value: bool) -> None:
    if value:
        typer.echo(f"provision {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    del version


@app.command()
@command
def init(
    name: Annotated[str, typer.Option("--name", help="What the two files are called.")] = "my-event",
    folder: Annotated[Path, typer.Option(help="Where the folders seeds/ and scenarios/ are.")] = Path(),
    quiet: Quiet = False,
) -> None:
    """Draft a recipe and a scenario for the target's own schema, with comments.

    Examples:
      provision init
      provision init --name summer-fair
    """
    from provision import pipeline

    recipe, scenario = pipeline.init(name, folder, _live(quiet))
    typer.echo(f"wrote {recipe} and {scenario}: read them through")
    typer.echo(f"next: provision check {scenario} --recipe {recipe}")


@app.command()
@command
def seed(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe file or bundled name; else the scenario's, else event-night.")
    ] = None,
    scenario: Annotated[
        str | None, typer.Option("--for", metavar="SCENARIO", help="Make as many tickets as this scenario can use.")
    ] = None,
    tickets: Annotated[int | None, typer.Option(min=1, help="How many tickets.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the ticket file goes.", show_default="test-tickets.json")
    ] = None,
    env: Annotated[Path | None, typer.Option(help="Also write TEST_EVENT_ID and so on, for `source`.")] = None,
    run: Annotated[
        str | None, typer.Option(help="Go on with a seed that was interrupted, as it was asked for.")
    ] = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Make a test event with its tickets and write test-tickets.json.

    Examples:
      provision seed
      provision seed --for scenarios/scanner-burst.yaml
      provision seed seeds/event-night.yaml --tickets 500 --env .env.test
      provision seed --dry-run
      provision seed --run 20260131-204500-x7kq3
    """
    from provision import seeding

    options = seeding.SeedOptions(recipe, scenario, tickets, out, env, dry_run, run)
    _print_seeded(seeding.seed(options, _live(quiet)))


def _print_seeded(seeded: Seeded) -> None:
    typer.echo(f"{'seeded' if seeded.written else 'would seed'} run {seeded.run} on {seeded.target}")
    for table, rows in seeded.counts.items():
        typer.echo(f"  {table:<20} {rows:>9,} rows")
    typer.echo(f"  {seeded.why}; one more ticket is kept for a race by hand")
    if seeded.written:
        typer.echo(f"wrote {' and '.join(map(str, seeded.files))}")
        typer.echo(f"next: provision run-scenario, then provision teardown --run {seeded.run}")


@app.command("run-scenario")
@command
def run_scenario(
    scenario: Annotated[
        str, typer.Argument(help="A scenario file, or the name of a bundled one.")
    ] = "scenarios/scanner-burst.yaml",
    tickets: Annotated[Path, typer.Option(help="The file that seed wrote.")] = Path("test-tickets.json"),
    vus: Annotated[int | None, typer.Option(min=1, help="Virtual users, in every part of the scenario.")] = None,
    duration: Annotated[str | None, typer.Option(help="Length of constant-vus parts, such as 1m30s.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of every race.")] = None,
    confidence: Annotated[
        str | None, typer.Option(help="Instead: so many rounds that none broken puts the rate below this, such as 1%.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes that share the load; by default as many as it needs.")
    ] = None,
    allow_exhaustion: Annotated[
        bool, typer.Option("--allow-exhaustion", help="Start with fewer tickets than the scenario can use.")
    ] = False,
    json: Annotated[Path | None, typer.Option("--json", help="Also write the summary here, as k6 shapes it.")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Also write the report here, one file for a browser.")
    ] = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write promises and thresholds as JUnit cases.")] = None,
    out: cli_history.Out = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="Take scenarios and thresholds from this k6 JSON configuration.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Fire a scenario at the scan function and judge it from the replies and the database.

    Exit code 0: every promise held. 99: one broke. 98: the run does not tell.

    Examples:
      provision run-scenario
      provision run-scenario scenarios/scanner-burst.yaml --duration 20s --rounds 50
      provision run-scenario --confidence 1%
      provision run-scenario my-scenario.yaml --tickets test-tickets.json --json summary.json
      provision run-scenario --out csv --out otlp=http://127.0.0.1:4318
    """
    from provision import opening, pipeline, preparation

    files = {form: path for form, path in (("json", json), ("html", html), ("junit", junit)) if path}
    ci = bool(os.environ.get("CI"))
    options = preparation.RunOptions(
        scenario, tickets, vus, duration, rounds, processes, allow_exhaustion, files, out or (), config, confidence, ci
    )
    outcome = pipeline.run_scenario(options, _live(quiet))
    _print_rehearsal(outcome)
    cli_history.push(outcome.report, outcome.out)
    if outcome.verdict.interrupted:
        complain(Interrupted("Interrupted before the end of the load.", hint=opening.removal_hint(outcome.run)))
    raise typer.Exit(int(outcome.verdict.exit_code))


def _print_rehearsal(outcome: Rehearsal) -> None:
    from provision.report import github, terminal

    _console(stderr=False).print(terminal.summary(outcome.report))
    typer.echo(f"\nreport: {outcome.folder / 'report.html'}\nvalues: {outcome.folder / 'summary.json'}")
    if github.is_github(os.environ):
        for line in github.commands(outcome.report):
            typer.echo(line)
        if path := os.environ.get("GITHUB_STEP_SUMMARY"):
            github.append_summary(Path(path), github.step_summary(outcome.report))


@app.command()
@command
def teardown(
    run: Annotated[str | None, typer.Option(help="The run to remove; the latest that is not clean by default.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All runs of this folder that are not clean.")] = False,
    find: Annotated[
        bool, typer.Option("--find", help="Look for runs in the database itself; with --run or --all remove them.")
    ] = False,
    recipe: Annotated[
        str, typer.Option(help="With --find: the recipe that names what the app writes.")
    ] = "event-night",
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Remove exactly the rows that a run made, and prove it by a count.

    Examples:
      provision teardown
      provision teardown --run 20260131-204500-x7kq3
      provision teardown --all --dry-run
      provision teardown --find
      provision teardown --find --run 20260131-204500-x7kq3
    """
    from provision import removing

    if find:
        _find(run, every=every, recipe=recipe, dry_run=dry_run, quiet=quiet)
        return
    result = removing.teardown(run, every=every, dry_run=dry_run, watcher=_live(quiet), show=_print_torn_down)
    if not (result.runs or result.failed):
        typer.echo("nothing to remove: every run of this folder is clean")
    result.check()


def _find(run: str | None, *, every: bool, recipe: str, dry_run: bool, quiet: bool) -> None:
    from provision import removing

    def say(orphan: Orphan) -> None:
        typer.echo(f"found run {orphan.run} in {', '.join(orphan.tables)}")

    found = removing.find(
        run, every=every, recipe=recipe, dry_run=dry_run, watcher=_live(quiet), found=say, show=_print_torn_down
    )
    if not found.orphans:
        typer.echo(f"no run stands in the database of {found.target}")
    elif not (found.removed.runs or found.removed.failed):
        typer.echo("remove one with: provision teardown --find --run RUN, or all of them with --all")
    found.removed.check()


def _print_torn_down(done: TornDown) -> None:
    typer.echo(f"{'would remove' if done.dry_run else 'removed'} run {done.run} from {done.target}")
    for account in done.accounts:
        state = "" if done.dry_run else f"{account.removed:>9,} removed {account.left:>9,} left"
        typer.echo(f"  {account.table:<20} {account.found:>9,} found {state}".rstrip())
        if account.why:
            typer.echo(f"    {account.why}")
    for row in done.foreign[:SHOWN]:
        typer.echo(f"  not ours, kept: {row}")
    if len(done.foreign) > SHOWN:
        typer.echo(f"  and {len(done.foreign) - SHOWN:,} more rows that are not ours")
    if not done.dry_run and not done.left:
        typer.echo("nothing is left")


@app.command()
@command
def check(
    scenario: Annotated[str, typer.Argument(help="A scenario file or bundled name.")] = "scenarios/scanner-burst.yaml",
    recipe: Annotated[str | None, typer.Option(help="A recipe file or bundled name; else the scenario's.")] = None,
    quiet: Quiet = False,
) -> None:
    """Preflight: keys, schema, function arguments and a canary scan of one ticket, which is removed again.

    Examples:
      provision check
      provision check my-scenario.yaml --recipe my-recipe.yaml
    """
    from provision import pipeline

    checked = pipeline.check(scenario, recipe, _live(quiet))
    typer.echo(f"ready: {checked.target}")
    for fact in checked.facts:
        typer.echo(f"  ✓ {fact}")


@app.command()
@command
def demo(
    broken: Annotated[
        str | None, typer.Option("--broken", metavar="GATE", help="Rehearse with a faulty gate and see it caught.")
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Half a minute instead of two.")] = False,
    quiet: Quiet = False,
) -> None:
    """The whole of it on this machine: stack up, seed, burst, race, verdict, teardown.

    Examples:
      provision demo
      provision demo --fast
      provision demo --fast --broken check-then-act
    """
    from provision import pipeline

    shown = pipeline.demo(gate=_broken_gate(broken), fast=fast, watcher=_live(quiet))
    _print_rehearsal(shown.rehearsal)
    _print_torn_down(shown.removed)
    raise typer.Exit(int(shown.rehearsal.verdict.exit_code))


def _broken_gate(name: str | None) -> str | None:
    from provision.local import stack
    from provision.yamlfile import unknown

    broken = {gate: details for gate, details in stack.gates().items() if details.broken}
    if name is not None and name not in broken:
        raise ConfigError(f"--broken: {unknown('gate', name, broken)}")
    return name


for _name, _function in cli_history.COMMANDS.items():
    app.command(_name)(command(_function))
app.add_typer(cli_history.export, name="export")
for _name, _function in cli_local.COMMANDS.items():
    local.command(_name)(command(_function))


if __name__ == "__main__":
    main()
