"""`runvoy version`: what is installed here, and what runs there."""

from __future__ import annotations

import msgspec
import typer

from runvoy_cli import __version__
from runvoy_cli.home import config
from runvoy_cli.http.transport import NoAnswer, Transport, reason_of
from runvoy_cli.input.options import Settings, new_app
from runvoy_cli.terminal.render import Console, facts, print_json, print_line
from runvoy_cli.terminal.sanitize import one_line
from runvoy_protocol import control
from runvoy_protocol.errors import RunvoyError

SERVER_SECONDS = 5
app = new_app()


@app.command(epilog="Example: runvoy version --json")
def version(context: typer.Context) -> None:
    """Print the versions of this client and of the deployment.

    Nothing is started for it: the embedded stack is asked only if it runs. A deployment that cannot be reached, or a
    broken configuration, is said and is no failure.
    """
    settings: Settings = context.obj
    health, trouble = _server(settings)
    if settings.json:
        print_json({"client": __version__, "server": health, "trouble": trouble or None})
        return
    server = f"{health.version} ({health.deployment_id})" if health else trouble
    for line in facts([("client", __version__), ("server", server)]):
        print_line(line)


def _server(settings: Settings) -> tuple[control.Health | None, str]:
    console = Console(settings)
    transport = Transport(console.trace if settings.debug else None)
    seconds = min(settings.timeout_seconds or SERVER_SECONDS, SERVER_SECONDS)
    try:
        remote = config.resolve(settings.profile, console.warn)
        if remote is None:
            from runvoy_cli.deployment.embedded import Embedded

            running = Embedded(config.home(), transport, console.warn).probe()
            if running is None:
                return None, "the embedded stack is not running"
            url = running.url
        else:
            url = remote.endpoint
        answer = transport.send("GET", f"{url}{control.API_PREFIX}/health", timeout=seconds, connect_timeout=seconds)
        return msgspec.json.decode(answer.body, type=control.Health), ""
    except RunvoyError as error:
        return None, error.message
    except NoAnswer as lost:
        return None, f"no answer from {lost}"
    except (msgspec.MsgspecError, UnicodeDecodeError, OSError) as error:
        return None, one_line(f"not a runvoy deployment: {reason_of(error)}")
