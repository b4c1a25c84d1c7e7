import subprocess
import sys

HEAVY = {
    "supabase",
    "postgrest",
    "httpx",
    "faker",
    "pydantic",
    "yaml",
    "uvloop",
    "provision.fixtures",
    "provision.audit",
}
SHOW = """
import sys
from provision import cli
code = cli.run(["--help"])
print(*sorted(sys.modules), file=sys.stderr)
sys.exit(code)
"""


def test_help_imports_nothing_that_it_does_not_need() -> None:
    done = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "seed" in done.stdout
    assert not HEAVY & set(done.stderr.split())
