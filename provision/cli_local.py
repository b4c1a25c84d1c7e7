"""The commands of the embedded stack; `provision.cli` puts them under `local`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from provision.errors import ConfigError

Name = Annotated[str, typer.Option("--name", help="Which stack; several run side by side.")]


def up(
    name: Name = "default",
    gate: Annotated[str | None, typer.Option(help="The scan function to install, see `local gates`.")] = None,
    pool: Annotated[int | None, typer.Option(min=1, help="Database connections of the API.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Start the embedded Supabase; it stays until `provision local down`.

    Examples:
      provision local up
      provision local up --gate check-then-act
      provision local up --name second --pool 1
    """
    from provision.local import stack

    running = stack.up(name, gate=gate, pool=pool, progress=_progress(quiet))
    typer.echo(f"up: {running.url} ({running.tls_url} with TLS), gate {running.gate}, pool {running.pool}")
    typer.echo(f'next: eval "$(provision local env{"" if name == "default" else f" --name {name}"})"')


def down(name: Name = "default") -> None:
    """Stop it; its data stay.

    Example: provision local down
    """
    from provision.local import stack

    typer.echo("stopped" if stack.down(name) else "it was not running")


def status(name: Name = "default") -> None:
    """Say whether it runs, and where.

    Example: provision local status
    """
    from provision.local import stack

    running = stack.status(name)
    if running is None:
        typer.echo("not running; start it with: provision local up")
        raise typer.Exit(1)
    typer.echo(f"up: {running.url} ({running.tls_url} with TLS), gate {running.gate}, pool {running.pool}")
    typer.echo(f'logs: {running.log_dir}\npsql: psql "{running.dsn}"')


def env(name: Name = "default") -> None:
    """Print its variables for `eval`, keys included: they open nothing but this machine's test database.

    Example: eval "$(provision local env)"
    """
    from provision.local import stack

    running = stack.status(name)
    if running is None:
        raise ConfigError("The stack is not running.", hint="Start it with: provision local up")
    for variable, value in running.env().items():
        typer.echo(f"export {variable}='{value}'")


def reset(name: Name = "default") -> None:
    """Stop it and delete its data.

    Example: provision local reset
    """
    from provision.local import stack

    stack.reset(name)
    typer.echo("deleted")


def gates() -> None:
    """List the scan functions that `local up --gate` and `demo --broken` know.

    Example: provision local gates
    """
    from provision.local import stack

    for name, gate in sorted(stack.gates().items(), key=lambda item: (item[1].broken, item[0])):
        typer.echo(f"{name:<28} {'broken' if gate.broken else 'correct':<8} {gate.description}")


def _progress(quiet: bool) -> Callable[[str], None]:
    from provision.report import terminal
    from provision.report.live import Live

    return Live(terminal.console(stderr=True, quiet=quiet)).say


COMMANDS = {"up": up, "down": down, "status": status, "env": env, "reset": reset, "gates": gates}
