"""`runvoy local`: the embedded stack on this machine, whatever deployment is configured."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
from collections import deque
from typing import Annotated, Any

import msgspec
import typer

from runvoy_cli.deployment.client import Client
from runvoy_cli.deployment.embedded import Embedded, Endpoint
from runvoy_cli.deployment.target import Target
from runvoy_cli.home import config
from runvoy_cli.home.cache import Cache
from runvoy_cli.home.files import private_folder, told_about, write_private
from runvoy_cli.http.transport import Transport
from runvoy_cli.input.options import DEFAULT_TIMEOUT_SECONDS, Settings, Yes, new_app
from runvoy_cli.input.problems import UsageProblem
from runvoy_cli.input.values import duration
from runvoy_cli.terminal.render import Console, facts, print_json, print_line
from runvoy_cli.terminal.sanitize import Sanitizer
from runvoy_protocol.errors import ErrorCode, RunvoyError

STOP_SECONDS = 30.0
_PAUSE_SECONDS = 0.02
_SHORTEST_KEEP_SECONDS = 24 * 3600
_HOST = re.compile(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_RUNNING = ("STARTING", "RUNNING", "TERMINATING")
app = new_app()


@app.callback(epilog="Example: runvoy local status")
def local() -> None:
    """The embedded stack: what runs commands on this machine when no deployment is configured.

    It starts by itself with the first command. Its state is in the folder `local` of RUNVOY_HOME (~/.runvoy).
    """


@app.command(epilog="Example: runvoy local up --containers-only")
def up(
    context: typer.Context,
    containers_only: Annotated[
        bool | None,
        typer.Option(
            "--containers-only/--host-processes",
            help="Whether commands run in containers only, from now on; as it was, if neither is given.",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="How long executions are kept after their end, e.g. 90d, from now on; `forever` keeps them, as at first.",
            show_default=False,
        ),
    ] = None,
    web_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="Whose pages may call the stack beside its own viewer, from now on (repeatable); `none`: nobody's.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:PORT]",
            help="By which name other machines reach the stack, from now on, through a proxy of this machine that speaks TLS; "
            "`none`: they do not.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Start the stack, if it does not run.

    With --containers-only no command runs as a process of this machine, whoever asks: what colleagues run then cannot read
    what the stack's user can, its keys included.

    With --host colleagues on other machines can use the stack; it needs --containers-only. The stack still listens on
    127.0.0.1 alone: a web server of yours has the certificate, and passes on what comes for that name.

    All of these are remembered, and can be changed while the stack is down.
    """
    stack = _stack(context.obj)
    wanted: dict[str, Any] = {}
    if containers_only is not None:
        wanted["host_processes"] = not containers_only
    if keep is not None:
        wanted["keep_seconds"] = None if keep.strip().lower() == "forever" else _keep_seconds(keep)
    if web_origin:
        wanted["web_origins"] = _origins(web_origin)
    if host is not None:
        wanted["host"] = _host(host)
    if wanted:
        with told_about(stack.home):
            _remember(stack, wanted)
    stack.ensure()
    _show(_facts_of(stack, context.obj), context.obj)


def _keep_seconds(text: str) -> int:
    seconds = duration(text)
    if seconds < _SHORTEST_KEEP_SECONDS:
        raise UsageProblem(f"{text!r} is too short: executions are kept for a day at least", "Write it like 90d.")
    return seconds


def _origins(texts: list[str]) -> list[str]:
    """The origins that are named, as browsers write them; UsageProblem for what is none."""
    if texts == ["none"]:
        return []
    return sorted({config.endpoint(text.lower(), "--web-origin") for text in texts})


def _host(text: str) -> str:
    """The name as it stands in the Host of a request; empty for `none`, UsageProblem for what cannot be one."""
    if text.strip().lower() == "none":
        return ""
    url = config.endpoint(f"https://{text.strip().lower().removeprefix('https://')}", "--host")
    host = url.removeprefix("https://").removesuffix(":443")
    if not _HOST.fullmatch(host):
        raise UsageProblem(
            f"--host: {host[:100]!r} is not how a name stands in an address",
            "It has letters, digits, dots and hyphens, as runvoy.example.com; a name in other letters begins with xn--.",
        )
    return host


def _remember(stack: Embedded, wanted: dict[str, Any]) -> None:
    path = stack.folder / "settings.json"
    try:
        known: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        known = {}
    except msgspec.MsgspecError as error:
        raise UsageProblem(f"{path} is damaged: {error}", "Remove it: the stack then has its defaults.") from error
    settings = {"host_processes": True, "keep_seconds": None, "web_origins": [], "host": ""} | known
    if settings | wanted == settings:
        return
    if (settings | wanted)["host"] and (settings | wanted)["host_processes"]:
        raise UsageProblem(
            "commands of people on other machines would run as this machine's user, and could read the stack's keys",
            "Give --containers-only together with --host; `--host none` takes the name away.",
        )
    private_folder(stack.folder)
    with stack.start_lock():
        if stack.is_held():
            raise UsageProblem(
                "the stack runs, and learns this only at its start", "First stop it: `runvoy local down`."
            )
        write_private(path, msgspec.json.encode(settings | wanted))


@app.command(epilog="Example: runvoy local gc --keep 90d --dry-run")
def gc(
    context: typer.Context,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION", help="How long executions are kept after their end.  [default: what `up` was told]"
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove executions that ended long ago (records, logs, requests), orphaned files, and the old part of the stack's log.

    What waits or runs stays, whatever its age; so do users, keys, images, secrets, the audit and its seals. For admins.
    """
    stack = _stack(context.obj)
    body = {"keep_seconds": None if keep is None else _keep_seconds(keep), "dry_run": dry_run}
    limit = context.obj.timeout_seconds or DEFAULT_TIMEOUT_SECONDS
    target = stack.ensure()
    client = Client(target, lambda of: Cache(stack.home, of.endpoint, of.signing_key.key_id), Transport(), limit)
    total: dict[str, int] = {}
    more = True
    while more:
        found: dict[str, Any] = msgspec.json.decode(client.call("POST", "/stack/gc", msgspec.json.encode(body)))
        more = found.pop("more")
        for name, count in found.items():
            total[name] = total.get(name, 0) + count
    if context.obj.json:
        print_json({"dry_run": dry_run, **total})
        return
    verb = "would be removed" if dry_run else "removed"
    print_line(f"{verb}: {total['executions']} executions, {total['requests']} requests that belong to none")
    print_line(f"  {total['objects']} objects, {total['bytes']:,} bytes")
    print_line(f"  {total['leftovers']} orphaned files and claims, {total['log_bytes']:,} bytes of the stack's log")


@app.command(epilog="Example: runvoy local down")
def down(context: typer.Context) -> None:
    """Stop the stack. Commands that run go on; the next command starts the stack again, and it takes in their output."""
    was_running = _stop(_stack(context.obj))
    if context.obj.json:
        print_json({"running": False, "was_running": was_running})
    else:
        print_line("stopped; running commands go on" if was_running else "the stack was not running")


@app.command(epilog="Example: runvoy --json local status")
def status(context: typer.Context) -> None:
    """Show whether the stack runs, where, and what is in it.

    Nothing is started for it. Exit code 0 either way: `running` in the JSON tells.
    """
    _show(_facts_of(_stack(context.obj), context.obj), context.obj)


@app.command(epilog="Example: runvoy local logs --tail 50")
def logs(
    context: typer.Context,
    tail: Annotated[int, typer.Option(metavar="N", min=0, help="The last N lines.")] = 100,
) -> None:
    """Print the end of the stack's own log (not a command's: that is `runvoy logs`)."""
    stack = _stack(context.obj)
    with told_about(stack.home):
        try:
            with stack.log_path.open("rb") as file:
                lines = list(deque(file, maxlen=tail))
        except FileNotFoundError:
            lines = []
    if context.obj.json:
        print_json({"path": str(stack.log_path), "lines": [line.decode(errors="replace").rstrip() for line in lines]})
        return
    content = b"".join(lines)
    if sys.stdout.isatty():
        sanitizer = Sanitizer()
        content = sanitizer.feed(content) + sanitizer.finish()
    sys.stdout.buffer.write(content)


@app.command(epilog="Example: runvoy local reset --yes")
def reset(
    context: typer.Context,
    yes: Yes = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also while commands run; they go on, seen by nobody.")
    ] = False,
) -> None:
    """Stop the stack and remove all its state: executions, logs, secrets, locks and this machine's key."""
    stack = _stack(context.obj)
    if not stack.folder.exists():
        _told_reset(context.obj, "there is nothing to remove", removed=False)
        return
    if not force:
        _refuse_while_running(stack, context.obj)
    if not yes:
        _confirm(stack)
    with told_about(stack.home), stack.start_lock():
        _stop_locked(stack)
        shutil.rmtree(stack.folder)
    _told_reset(context.obj, f"removed {stack.folder}", removed=True)


def _stack(settings: Settings) -> Embedded:
    console = Console(settings)
    transport = Transport(console.trace if settings.debug else None)
    return Embedded(config.home(), transport, console.warn, is_asked_for=True)


def _facts_of(stack: Embedded, settings: Settings) -> dict[str, Any]:
    """What `status` shows."""
    target = stack.existing_target()
    if target is None:
        return {"running": False, "data_directory": str(stack.folder)}
    return {"running": True, **_ask_stack(stack, target, settings)}


def _ask_stack(stack: Embedded, target: Target, settings: Settings) -> dict[str, Any]:
    limit = settings.timeout_seconds or DEFAULT_TIMEOUT_SECONDS
    client = Client(target, lambda of: Cache(stack.home, of.endpoint, of.signing_key.key_id), Transport(), limit)
    answer: dict[str, Any] = msgspec.json.decode(client.call("GET", "/stack"))
    return answer


def _show(found: dict[str, Any], settings: Settings) -> None:
    if settings.json:
        print_json(found)
        return
    counts: dict[str, int] = found.get("counts", {})
    pairs = [
        ("stack", f"running, pid {found['pid']}" if found["running"] else "not running"),
        ("endpoint", found.get("endpoint", "")),
        ("for others", f"https://{found['host']}" if found.get("host") else ""),
        ("commands", "in containers only" if found.get("host_processes") is False else ""),
        ("version", found.get("version", "")),
        ("data", found["data_directory"]),
        (
            "executions",
            ", ".join(f"{count} {state}" for state, count in counts.items()) + (" in 30 days" if counts else ""),
        ),
    ]
    for line in facts(pairs):
        print_line(line)


def _stop(stack: Embedded) -> bool:
    """Stop the stack; whether it ran."""
    if not stack.folder.exists():
        return False
    with told_about(stack.home), stack.start_lock():
        return _stop_locked(stack)


def _stop_locked(stack: Embedded) -> bool:
    """Under start.lock, so that no client starts the next one meanwhile."""
    endpoint = stack.probe()
    if endpoint is None and not stack.is_held():
        return False
    if endpoint is None:
        raise RunvoyError(
            ErrorCode.UNAVAILABLE,
            "a process of the embedded stack lives but does not answer, so its pid cannot be trusted",
            f"Find who holds it with: fuser {stack.folder / 'stack.lock'}",
        )
    _end(stack, endpoint)
    return True


def _end(stack: Embedded, endpoint: Endpoint) -> None:
    try:
        os.kill(endpoint.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    deadline = time.monotonic() + STOP_SECONDS
    while stack.is_held():
        if time.monotonic() > deadline:
            raise RunvoyError(
                ErrorCode.UNAVAILABLE,
                f"the stack (pid {endpoint.pid}) did not stop within {STOP_SECONDS:.0f} s",
                f"Look at {stack.log_path}; kill -9 {endpoint.pid} loses nothing.",
            )
        time.sleep(_PAUSE_SECONDS)


def _refuse_while_running(stack: Embedded, settings: Settings) -> None:
    """Commands may run while the stack does not, so it is started to tell."""
    try:
        counts: dict[str, int] = _ask_stack(stack, stack.ensure(), settings).get("counts", {})
    except RunvoyError as error:
        raise RunvoyError(
            error.code,
            f"whether commands run cannot be found out: {error.message}",
            "`runvoy local reset --force` removes the state all the same.",
        ) from error
    running = sum(counts.get(state, 0) for state in _RUNNING)
    if running:
        raise RunvoyError(
            ErrorCode.CONFLICT,
            f"{running} command{'s' if running > 1 else ''} still running (`runvoy list`)",
            "Wait for them, or use --force: they go on, seen by nobody.",
        )


def _confirm(stack: Embedded) -> None:
    if not sys.stdin.isatty():
        raise UsageProblem("there is no terminal to ask on", "Give --yes to remove everything without being asked.")
    typer.confirm(f"Remove {stack.folder} with all executions, logs, secrets and the key?", abort=True, err=True)


def _told_reset(settings: Settings, text: str, removed: bool) -> None:
    if settings.json:
        print_json({"removed": removed})
    else:
        print_line(text)
