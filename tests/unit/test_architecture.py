"""The house stays as it is drawn: imports point one way, sockets and supabase-py have one door each."""

import ast
from pathlib import Path

import pytest

import provision

ROOT = Path(provision.__file__).parent
LAYERS = {
    "errors": 0, "counted": 0, "yamlfile": 1, "target": 1, "rundir": 1, "bundled": 2, "fixtures": 2, "load": 3,
    "audit": 4, "report": 5, "k6": 5, "gateway": 5, "local": 5, "saved": 6, "fitting": 6, "history": 6, "opening": 6,
    "preparation": 6, "aftermath": 6, "rehearsal": 7, "seeding": 7, "removing": 7, "pipeline": 8,
    "cli_errors": 9, "cli_history": 9, "cli_local": 9, "cli": 10,
}  # fmt: skip
MODULES = sorted(ROOT.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """The modules that a file imports at run time, whether at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def layer(module: str) -> int | None:
    parts = module.split(".")
    return LAYERS.get(parts[1]) if parts[0] == "provision" and len(parts) > 1 else None


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_towards_the_values(path: Path) -> None:
    own = layer("provision." + ".".join(path.relative_to(ROOT).with_suffix("").parts))
    if own is None:
        return
    above = {name for name in imports(path) if (level := layer(name)) is not None and level > own}
    assert not above, f"{path.name} imports {above}"


def test_only_the_gateway_imports_supabase_and_httpx() -> None:
    foreign = {"supabase", "postgrest", "httpx"}
    users = {p.relative_to(ROOT) for p in MODULES if {name.split(".")[0] for name in imports(p)} & foreign}
    assert users == {Path("gateway/supabase.py")}


def test_only_the_wire_and_the_release_open_sockets() -> None:
    doors = {"socket", "httptools", "ssl", "select"}
    users = {p.relative_to(ROOT) for p in MODULES if imports(p) & doors and p.relative_to(ROOT).parts[0] != "local"}
    allowed = {"load/wire.py", "load/dial.py", "load/http.py", "load/release.py", "load/tls.py", "gateway/supabase.py"}
    assert {str(path) for path in users} <= allowed


def test_only_the_command_line_prints() -> None:
    for path in MODULES:
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        names = {call.func.id for call in calls if isinstance(call.func, ast.Name)}
        assert "print" not in names, path
