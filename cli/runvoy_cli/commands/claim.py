"""`runvoy claim`: from a claim token to a key on this machine, and a configuration that uses it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from runvoy_cli.home import config
from runvoy_cli.http.transport import Transport
from runvoy_cli.input.options import DEFAULT_TIMEOUT_SECONDS, Settings, new_app
from runvoy_cli.input.problems import UsageProblem, called_wrongly
from runvoy_cli.members import claiming
from runvoy_cli.members.words import limits_text, until
from runvoy_cli.terminal.render import Console, print_json, print_line, whole
from runvoy_cli.terminal.sanitize import one_line
from runvoy_protocol import claims

_MOST_READ = 64 * 1024  # of stdin: far more than a token, with what may stand around it
app = new_app()


@app.command(epilog="Example: runvoy claim rvc1_… --profile prod")
def claim(
    context: typer.Context,
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="The claim token; `-` reads it from stdin.")],
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Another address of the deployment than the token names.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the deployment that the configuration names now.")
    ] = False,
) -> None:
    """Make a key on this machine, register its public half with a claim token, and write config.yaml.

    The private half never leaves this machine. A token is good for one key and 15 minutes; if this is cut off, the same
    command again goes on with the same key. With --profile the key is for that profile.
    """
    settings: Settings = context.obj
    console = Console(settings)
    with called_wrongly():
        parsed = claims.parse_token(sys.stdin.read(_MOST_READ) if token == "-" else token)
    home = config.home()
    url = config.endpoint(endpoint or parsed.endpoint, "--endpoint" if endpoint else "the claim token")
    path = home / config.CONFIG_NAME
    if not replace:
        _refuse_to_replace(path, settings.profile)
    transport = Transport(console.trace if settings.debug else None)
    limit = settings.timeout_seconds or DEFAULT_TIMEOUT_SECONDS
    console.detail(f"claiming a key of {parsed.deployment_id} at {url}")
    answer = claiming.redeem(home, settings.profile, parsed, url, transport, limit)
    config.warn_of_variables(console.warn)
    if settings.json:
        print_json(
            {
                "config": str(path),
                "profile": settings.profile,
                "endpoint": url,
                "deployment_id": answer.deployment_id,
                "role": answer.role.value,
                "key": whole(answer.key),
            }
        )
        return
    print_line(one_line(f"you are {answer.key.user} ({answer.role.value}) in {answer.deployment_id}"))
    limits = limits_text(answer.key.limits)
    console.say(
        f"wrote {path}"
        + (f", profile {settings.profile}" if settings.profile else "")
        + f"; key {answer.key.key_id}, expires {until(answer.key.expires_at)}"
        + (f", limited to {limits}" if limits else "")
    )


def _refuse_to_replace(path: Path, profile: str | None) -> None:
    """Before anything is claimed: a token works once, and a key that is overwritten is lost."""
    if not path.exists():
        return
    from runvoy_cli.home import config_file

    found = config_file.load(path)
    taken = found.top if profile is None else found.profiles.get(profile, {})
    if "api_key" in taken:
        where = f"the profile {profile!r} of {path}" if profile is not None else str(path)
        raise UsageProblem(
            f"{where} holds a key already, which would be lost; nothing was claimed",
            "Claim into another profile with --profile NAME, or give --replace.",
        )
