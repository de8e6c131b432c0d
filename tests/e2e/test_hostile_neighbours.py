"""Other users of the machine, and commands that work against the stack that runs them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.conftest import Machine as MachineAt

if TYPE_CHECKING:
    from tests.e2e.conftest import Machine


def test_nothing_is_for_other_users_whatever_the_umask(tmp_path: Path) -> None:
    home = tmp_path / "made" / "home"
    machine = MachineAt(home)
    try:
        machine.ok("run", "echo private", umask=0)
        token = machine.ok("users", "create", "bob", "--role", "developer", umask=0).strip()
        other = {"RUNVOY_HOME": str(tmp_path / "made" / "bob")}
        machine.ok("claim", token, env=other, umask=0)
        made = [path for path in (tmp_path / "made", *(tmp_path / "made").rglob("*")) if not path.is_symlink()]
        assert len(made) > 20
        # A file in a folder of ours alone is ours alone; who may write to a folder may put another file in its place.
        assert [path for path in made if path.is_dir() and path.stat().st_mode & 0o077] == []
        assert [path for path in made if path.stat().st_mode & 0o022] == []
    finally:
        machine.end()


def test_a_command_that_kills_its_stack_and_removes_its_folder_runs_once(machine: Machine) -> None:
    """The stack that comes back has heard of no start, and finds nothing where the run was."""
    machine.ok("local", "up")
    ran = machine.home.parent / "ran"
    line = f'kill -9 {machine.stack_pid()}; rm -rf "$(dirname "$PWD")"; echo ran >> {ran}; sleep 1; echo end >> {ran}'
    execution_id = machine.ok("submit", line).strip()
    waited = machine("wait", execution_id)
    assert waited.returncode == 125, waited
    assert machine.status(execution_id)["state"] == "UNKNOWN", "its log and its result went with the folder"
    assert ran.read_text() == "ran\nend\n"
    machine.wait_until(lambda: not list((machine.home / "local" / "runs" / "claims").iterdir()))
