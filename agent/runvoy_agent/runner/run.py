"""One run: prepare and start the command, supervise it, and say how it ended."""

from __future__ import annotations

import os

from runvoy_agent.runner import process
from runvoy_agent.runner.ending import Clock, Ending
from runvoy_agent.runner.payload import Payload
from runvoy_agent.runner.remarks import remark
from runvoy_agent.runner.signals import Signals

NOTE_VARIABLE = "RUNVOY_NOTE"
"""The variable of a runner's environment with what the launcher has to say in the log of a process; it does not reach the
command."""

_KEPT_VARIABLES = (b"PATH", b"HOME", b"USER", b"LANG", b"TZ", b"TMPDIR")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runvoy_agent.runner.output import Output
    from runvoy_agent.runner.report import Reports
    from runvoy_agent.runner.spool import Spool


def run(run_dir: str, payload: Payload, signals: Signals, alive: int) -> bool:
    """Run a claimed execution to its end; whether nothing of it lives any more.

    `alive` is the lock's descriptor, which the command inherits.
    """
    if "RUNVOY_CONTAINER" in os.environ:
        from runvoy_agent.runner.container_run import run_in_container

        return run_in_container(run_dir, payload, signals)
    ending = Ending()
    work_dir = f"{run_dir}/work"
    begun = _Begun(run_dir, work_dir, payload, signals, alive, ending) if payload.git is None else None
    # Only now: the command is running while these load.
    from runvoy_agent.runner.output import Output, masked
    from runvoy_agent.runner.report import Reports
    from runvoy_agent.runner.spool import Spool
    from runvoy_agent.runner.supervise import Supervisor

    spool = Spool(run_dir, payload.execution_id)
    output = masked(Output, spool, payload.masked, payload.max_log_bytes)
    if note := os.environ.get(NOTE_VARIABLE):
        output.note(note)
    if begun is None:
        begins = _clone(run_dir, payload, signals, output, spool, ending) or work_dir
        begun = _Begun(run_dir, begins, payload, signals, alive, ending)
    reports = Reports(payload, spool, begun.clock)
    if begun.command is not None:
        reports.started(begun.command.pid)
        Supervisor(
            begun.command, payload, signals, begun.streams, output, spool, ending, begun.clock
        ).supervise()  # fmt: skip
    elif ending.outcome != "killed":
        output.note(ending.message)
    _end(output, spool, reports, ending, work_dir)
    _remove_work_dir(work_dir)
    return ending.survivors == 0


class _Begun:
    """The started command, its clock and its streams. No command if it never ran, and `ending` says why."""

    def __init__(
        self, run_dir: str, work_dir: str, payload: Payload, signals: Signals, alive: int, ending: Ending
    ) -> None:
        pipes = (*_pipe(), *_pipe())
        self.clock = Clock()
        self.command = _start(run_dir, work_dir, payload, signals, (pipes[1], pipes[3], alive), ending)
        self.streams = {pipes[0]: "out", pipes[2]: "err"}
        for written in (pipes[1], pipes[3]):
            os.close(written)


def _clone(
    run_dir: str, payload: Payload, signals: Signals, output: Output, spool: Spool, ending: Ending
) -> str | None:
    """Where the command begins. None if there is no checkout: if there was to be one, `ending` says why."""
    if payload.git is None:
        return None
    from runvoy_agent.runner.git_clone import Clone, Place

    try:
        process.guard_and_adopt()  # before a child has anything of a secret
    except OSError as error:
        ending.settle("setup_failed", f"the clone could not be set up: {error}")
        return None
    clone = Clone(
        payload,
        payload.git,
        Place(f"{run_dir}/work"),
        signals,
        output,
        spool,
        is_killed=lambda: os.path.lexists(f"{run_dir}/kill"),
    )
    return clone.run(ending)


def _end(output: Output, spool: Spool, reports: Reports, ending: Ending, work_dir: str) -> None:
    output.end()
    reports.result(ending, output)
    if not spool.is_empty:
        _remove_work_dir(work_dir)  # what the command left there may be what takes the room
    spool.finish()


def _pipe() -> tuple[int, int]:
    read, written = os.pipe()
    os.set_blocking(read, False)
    return read, written


def _start(
    run_dir: str, work_dir: str, payload: Payload, signals: Signals, fds: tuple[int, int, int], ending: Ending
) -> process.Command | None:
    """The started command; None if it never ran, and `ending` says why."""
    if ending.outcome:
        return None
    if signals.kill_wanted or os.path.lexists(f"{run_dir}/kill"):
        ending.settle("killed", "killed before the command started")
        return None
    try:
        process.guard_and_adopt()
        if payload.git is None:
            os.mkdir(work_dir, 0o700)  # noqa: PTH102 - pathlib costs start-up time
        return process.start(payload.argv, _environment(payload), work_dir, *fds)
    except process.ExecError as error:
        ending.settle("exec_failed", str(error))
        ending.exit_code = error.exit_code
    except OSError as error:
        ending.settle("setup_failed", f"the command could not be set up: {error}")
    return None


def _environment(payload: Payload) -> dict[bytes, bytes]:
    """Nothing of the machine's but what a program needs to find its way; then what was requested, then secrets."""
    kept = {name: os.environb[name] for name in _KEPT_VARIABLES if name in os.environb}
    own = {b"RUNVOY_EXECUTION_ID": payload.execution_id.encode()}
    # The id comes last: by it survivors of a killed runner are found.
    return kept | payload.env | payload.checkout_variables("") | payload.secrets | own


def _remove_work_dir(work_dir: str) -> None:
    try:
        os.rmdir(work_dir)  # noqa: PTH106 - mostly it is empty, and shutil takes a while to import
    except FileNotFoundError:
        return
    except OSError:
        from runvoy_agent.runner.removal import remove_tree

        for failure in remove_tree(work_dir):
            remark(f"the working directory was not removed: {failure}")
