"""Which deployment is meant: the environment, else the config file, else the embedded stack.

The embedded stack is meant only when nothing at all is configured. A CI job that forgot its endpoint must not run
`terraform destroy` on itself, so a partial configuration, an empty variable included, is exit 2.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from runvoy_cli.http.transport import check_url
from runvoy_cli.input.problems import UsageProblem
from runvoy_protocol.errors import RunvoyError
from runvoy_protocol.keys import PREFIX, SigningKey

HOME_VARIABLE = "RUNVOY_HOME"
PROFILE_VARIABLE = "RUNVOY_PROFILE"
VARIABLES = {"endpoint": "RUNVOY_ENDPOINT", "deployment_id": "RUNVOY_DEPLOYMENT", "api_key": "RUNVOY_API_KEY"}
CONFIG_NAME = "config.yaml"

Say = Callable[[str], None]


class Remote(NamedTuple):
    """A deployment that somebody runs."""

    endpoint: str
    deployment_id: str
    signing_key: SigningKey
    web_url: str | None = None
    timeout_seconds: int | None = None


def home(environ: Mapping[str, str] = os.environ) -> Path:
    """The one folder that holds everything runvoy keeps on this machine."""
    chosen = environ.get(HOME_VARIABLE)
    if chosen == "":
        raise UsageProblem(f"{HOME_VARIABLE} is set but empty", f"Unset {HOME_VARIABLE}, or give it a folder.")
    try:
        return Path(chosen).expanduser().absolute() if chosen else Path.home() / ".runvoy"
    except RuntimeError as error:
        raise UsageProblem("this user has no home folder", f"Set {HOME_VARIABLE} to a folder.") from error


def resolve(profile: str | None, warn: Say, environ: Mapping[str, str] = os.environ) -> Remote | None:
    """The configured deployment; None if nothing at all is configured, which means the embedded stack.

    Raises UsageProblem for anything half configured or malformed, naming what and where.
    """
    path = home(environ) / CONFIG_NAME
    _refuse_empty(environ)
    chosen = chosen_profile(profile, environ)
    from_environment = {name: environ[variable] for name, variable in VARIABLES.items() if variable in environ}
    if not path.exists():
        if not from_environment and chosen is None:
            return None
        if chosen is not None:
            raise UsageProblem(
                f"the profile {chosen!r} is asked for, but there is no config file {path}",
                f"Make it with `runvoy configure --profile {chosen}`.",
            )
        return _remote({}, from_environment, str(path))
    # The file is read even where the environment has everything: a broken one is told about, not worked around.
    from runvoy_cli.home import config_file

    _warn_of_readers(path, warn)
    return _remote(config_file.load(path).settings(chosen, path), from_environment, _where(path, chosen))


def _refuse_empty(environ: Mapping[str, str]) -> None:
    for variable in (*VARIABLES.values(), PROFILE_VARIABLE):
        if variable in environ and not environ[variable].strip():
            raise UsageProblem(
                f"{variable} is set but empty", f"Unset {variable}, or set it; an empty one is taken for a mistake."
            )


def _remote(from_file: Mapping[str, str], from_environment: Mapping[str, str], where: str) -> Remote:
    values = {**from_file, **from_environment}
    missing = [name for name in VARIABLES if name not in values]
    if missing:
        places = "; ".join(f"{name} ({VARIABLES[name]}, or `{name}:` in {where})" for name in missing)
        raise UsageProblem(
            f"the configuration is incomplete: missing {places}",
            "Set what is missing, or run `runvoy configure`. Only with nothing configured does runvoy use this machine.",
        )
    return Remote(
        endpoint=endpoint(values["endpoint"], _origin("endpoint", from_environment, where)),
        deployment_id=deployment_id(values["deployment_id"], _origin("deployment_id", from_environment, where)),
        signing_key=_signing_key(values["api_key"], _origin("api_key", from_environment, where)),
        web_url=values.get("web_url"),
        timeout_seconds=int(values["timeout"]) if "timeout" in values else None,
    )


def key_is_of_environment(environ: Mapping[str, str] = os.environ) -> bool:
    return VARIABLES["api_key"] in environ


def chosen_profile(profile: str | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """The profile that is used: the one asked for, else the environment's; None for the top level."""
    chosen = profile or environ.get(PROFILE_VARIABLE)
    if chosen is not None:
        _refuse_key(chosen, "--profile" if profile else PROFILE_VARIABLE, "the name of a profile")
    return chosen


def warn_of_variables(warn: Say, environ: Mapping[str, str] = os.environ) -> None:
    """Tell which variables win over a config file that was just written."""
    for variable in (*VARIABLES.values(), PROFILE_VARIABLE):
        if variable in environ:
            warn(f"{variable} is set in the environment and wins over what was written")


def _origin(name: str, from_environment: Mapping[str, str], where: str) -> str:
    return VARIABLES[name] if name in from_environment else f"`{name}` in {where}"


def endpoint(text: str, origin: str) -> str:
    """The endpoint without its last slash; UsageProblem, naming `origin`, if it cannot be one."""
    _refuse_key(text, origin, "an address", "An endpoint is like https://host.")
    try:
        parts = check_url(text.strip())
        parts.port  # noqa: B018 - raises ValueError for a port that is no number
    except RunvoyError as error:
        raise UsageProblem(f"{origin}: {error.message}", error.hint) from error
    except ValueError as error:
        raise UsageProblem(f"{origin} has no valid port") from error
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username or parts.password:
        raise UsageProblem(f"{origin}: an endpoint is only https://host or https://host:port")
    return f"{parts.scheme}://{parts.netloc}"


def deployment_id(text: str, origin: str) -> str:
    """A deployment's id. It goes into every call, and into the audit of whoever is called by a wrong one: not so an API key."""
    _refuse_key(text, origin, "the id of a deployment")
    return text.strip()


def _refuse_key(text: str, origin: str, wanted: str, hint: str = "") -> None:
    """UsageProblem, naming `origin`, for an API key where something else belongs, as when lines were swapped. Neither shown, as
    what else is wrong would be, nor sent."""
    if PREFIX in text:
        raise UsageProblem(f"{origin} holds an API key, where {wanted} belongs", hint)


def _signing_key(text: str, origin: str) -> SigningKey:
    try:
        return SigningKey.from_api_key(text)
    except RunvoyError as error:
        raise UsageProblem(f"{origin}: {error.message}", error.hint) from error


def _where(path: Path, profile: str | None) -> str:
    return f"profile {profile!r} of {path}" if profile is not None else str(path)


def _warn_of_readers(path: Path, warn: Say) -> None:
    if os.name == "posix" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        warn(f"{path} holds an API key and can be read by other users; mend it with: chmod 600 {path}")
