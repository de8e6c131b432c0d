"""`runvoy sync`: a folder as the whole interface."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from runvoy_cli.deployment.session import open_session
from runvoy_cli.input.options import new_app
from runvoy_cli.input.problems import UsageProblem
from runvoy_cli.input.values import duration, pairs
from runvoy_protocol.errors import ErrorCode, RunvoyError

TIMEOUT_HELP = "With --once: how long to wait for all of it, then give up with 120.  [default: no limit]"
_SHORTEST_PULL_SECONDS = 1
app = new_app()


@app.command(epilog="Example: runvoy sync ~/runs & cp deploy.yml ~/runs/inbox/")
def sync(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder; it is made if it is not there.")],
    once: Annotated[
        bool, typer.Option("--once", help="Submit all, wait for all, copy all, and leave; --timeout bounds it.")
    ] = False,
    mine: Annotated[bool, typer.Option("--mine", help="Copy your own executions.  [default]")] = False,
    everybodys: Annotated[bool, typer.Option("--all", help="Copy every execution that you may read.")] = False,
    label: Annotated[
        str | None, typer.Option(metavar="NAME=VALUE", help="Copy the executions with this label.")
    ] = None,
    git_pull: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Pull the Git checkout first, and so often; run what is committed once."),
    ] = None,
) -> int:
    """Keep a folder: submit the request files of DIR/inbox, and copy executions to DIR/executions as they go on.

    A request that was submitted moves to inbox/.done with its receipt; one that is not right or was refused to
    inbox/.rejected with the reason. executions/ID holds log.txt, log.jsonl, status.json, request.json and, when all of it
    is there, result.json. Ctrl-C or SIGTERM ends it; started again, it goes on.

    With --once the exit code is that of `runvoy wait` for the submitted ones in the order of their files' names: 0, or the
    first failure's. With --json: events on stdout as they come, one object a line, in place of what is said on stderr.
    """
    if sum((mine, everybodys, label is not None)) > 1:
        raise UsageProblem("--mine, --all and --label exclude each other", "Choose what is to be copied.")
    if context.obj.timeout_seconds is not None and not once:
        raise UsageProblem("--timeout is for --once: without it there is nothing to wait for", "Leave it away.")
    pull_seconds = None if git_pull is None else duration(git_pull)
    if pull_seconds is not None and pull_seconds < _SHORTEST_PULL_SECONDS:
        raise UsageProblem("--git-pull 0s would never stop pulling", "Write it like 60s.")
    query = {} if everybodys else {"owner": "me"}
    if label is not None:
        pairs("--label", [label])
        query = {"label": label}
    if folder.exists() and not folder.is_dir():
        raise UsageProblem(f"{folder} is no folder", "Name a folder; it is made if it is not there.")
    context.obj.has_a_commands_code = once
    if sys.platform == "win32":
        raise RunvoyError(
            ErrorCode.UNAVAILABLE,
            "`runvoy sync` runs on Linux and macOS only",
            "Use `runvoy submit`, `wait` and `logs`, which run here.",
        )

    from runvoy_sync import daemon
    from runvoy_sync.settings import SyncSettings

    session = open_session(context.obj, calls_are_limited=False)
    settings = SyncSettings(
        folder, once, query, pull_seconds, give_up_seconds=context.obj.timeout_seconds, as_json=context.obj.json
    )
    return daemon.run(settings, session)
