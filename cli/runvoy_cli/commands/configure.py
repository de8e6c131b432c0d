"""`runvoy configure`: which deployment to use, and the key to use it with."""

from __future__ import annotations

import sys
from typing import Annotated

import msgspec
import typer

from runvoy_cli.deployment.client import Client
from runvoy_cli.deployment.target import Target
from runvoy_cli.home import config
from runvoy_cli.home.cache import Cache
from runvoy_cli.home.files import told_about
from runvoy_cli.http.transport import NoAnswer, Transport
from runvoy_cli.input.options import DEFAULT_TIMEOUT_SECONDS, Settings, new_app
from runvoy_cli.input.problems import UsageProblem
from runvoy_cli.terminal.render import Console, print_json, print_line
from runvoy_cli.terminal.sanitize import one_line
from runvoy_protocol import control
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.keys import SigningKey

app = new_app()


@app.command(
    epilog="Example: runvoy configure --profile prod --endpoint https://runvoy.example --api-key-stdin < key.txt"
)
def configure(
    context: typer.Context,
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="The deployment's address, https://…")] = None,
    deployment: Annotated[
        str | None, typer.Option(metavar="ID", help="The deployment's id; without it the endpoint is asked.")
    ] = None,
    api_key_stdin: Annotated[
        bool, typer.Option("--api-key-stdin", help="Read the API key from stdin; it never stands on a command line.")
    ] = False,
    verify: Annotated[bool, typer.Option(help="Call `whoami` before anything is written.")] = True,
) -> None:
    """Set the deployment and the API key to use, in config.yaml of RUNVOY_HOME (~/.runvoy).

    With --profile it is that profile that is set; everything else in the file stays. On a terminal what is missing is
    asked for; the key is not echoed.
    """
    settings: Settings = context.obj
    console = Console(settings)
    url = config.endpoint(endpoint or _ask("Endpoint", "--endpoint"), "--endpoint")
    key = SigningKey.from_api_key(_api_key(api_key_stdin))
    transport = Transport(console.trace if settings.debug else None)
    found = deployment or (_deployment_of(url, transport) if verify else _ask("Deployment id", "--deployment"))
    deployment_id = config.deployment_id(found, "--deployment")
    target = Target(url, deployment_id, key)
    who = _whoami(target, transport, settings) if verify else None
    path = config.home() / config.CONFIG_NAME
    changed = {"endpoint": url, "deployment_id": deployment_id, "api_key": key.to_api_key()}
    from runvoy_cli.home import config_file

    with told_about(path.parent):
        config_file.save(path, settings.profile, changed)
    config.warn_of_variables(console.warn)
    if settings.json:
        print_json({"config": str(path), "profile": settings.profile, "deployment_id": deployment_id, "whoami": who})
        return
    print_line(f"wrote {path}" + (f", profile {settings.profile}" if settings.profile else ""))
    if who is not None:
        print_line(one_line(f"you are {who.user} ({who.role}) in {who.deployment_id}"))


def _ask(what: str, option: str) -> str:
    if not sys.stdin.isatty():
        raise UsageProblem(f"{option} is missing, and there is no terminal to ask on", f"Give {option}.")
    return str(typer.prompt(what, err=True)).strip()


def _api_key(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.read().strip()
    if not sys.stdin.isatty():
        raise UsageProblem(
            "the API key is missing, and there is no terminal to ask on", "Pipe it: --api-key-stdin < FILE"
        )
    return str(typer.prompt("API key", hide_input=True, err=True)).strip()


def _deployment_of(url: str, transport: Transport) -> str:
    """The id that the endpoint itself gives. It is shown, and stays fixed from then on."""
    try:
        answer = transport.send("GET", f"{url}{control.API_PREFIX}/health", timeout=DEFAULT_TIMEOUT_SECONDS)
        return msgspec.json.decode(answer.body, type=control.Health).deployment_id
    except NoAnswer as lost:
        raise RunvoyError(
            ErrorCode.UNAVAILABLE, f"no answer from {lost}", "Check --endpoint and the network."
        ) from lost
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RunvoyError(
            ErrorCode.UNAVAILABLE, f"{url} does not answer as a runvoy deployment does", "Check --endpoint."
        ) from error


def _whoami(target: Target, transport: Transport, settings: Settings) -> control.Whoami:
    home = config.home()
    limit = settings.timeout_seconds or DEFAULT_TIMEOUT_SECONDS
    client = Client(target, lambda of: Cache(home, of.endpoint, of.signing_key.key_id), transport, limit)
    return client.ask(control.Whoami, "GET", "/whoami")
