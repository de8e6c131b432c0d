"""Secrets: what one can be, and the bodies of the routes about them. Three of these hold a value; no repr shows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from runvoy_protocol import git_sources
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.hidden import repr_without
from runvoy_protocol.instants import Instant
from runvoy_protocol.members import check_user_name
from runvoy_protocol.requests import env_name_problem, is_name

MIN_VALUE_BYTES = 8
"""Without the white space around it. Less turns up in any output by chance, so it could not be masked."""

MAX_VALUE_BYTES = 64 * 1024
MAX_DESCRIPTION_LENGTH = 256
MAX_SHARED_WITH = 64
EVERYONE = "*"
"""In the place of a user's name: everybody who may run commands."""


# Variables that make programs load or run something. Whoever shares a secret chooses its variable, for the commands of others.
_LOADING = frozenset(
    [
        "PATH",
        "IFS",
        "ENV",
        "BASH_ENV",
        "BASHOPTS",
        "SHELLOPTS",
        "PS4",
        "PROMPT_COMMAND",
        "HOME",
        "SHELL",
        "EDITOR",
        "PAGER",
        "NODE_OPTIONS",
        "PERL5OPT",
        "PERL5LIB",
        "RUBYOPT",
        "RUBYLIB",
        "JAVA_TOOL_OPTIONS",
        "JDK_JAVA_OPTIONS",
        "_JAVA_OPTIONS",
        "CLASSPATH",
        "MAVEN_OPTS",
        "GRADLE_OPTS",
        "DOTNET_STARTUP_HOOKS",
    ]
)
_LOADING_PREFIXES = (
    "LD_",
    "DYLD_",
    "BASH_FUNC_",
    "PYTHON",
    "GCONV_",
    "GIT_CONFIG",
    "GIT_EXEC",
    "GIT_SSH",
    "GIT_EXTERNAL",
)


class CreateSecret(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """POST secrets. The caller becomes its owner; SECRET_EXISTS if the name is taken, by whomever."""

    name: str
    env_name: str
    value: bytes
    description: str = ""
    shared_with: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return repr_without(self, "value")


class UpdateSecret(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """PUT secrets/{name}: what is None stays. CONFLICT if the secret is not at `version` any more."""

    version: int
    env_name: str | None = None
    description: str | None = None
    shared_with: tuple[str, ...] | None = None
    value: bytes | None = None

    def __repr__(self) -> str:
        return repr_without(self, "value")


class SecretAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A secret without its value. `version` rises with each change; who changes the secret says which one they saw."""

    name: str
    env_name: str
    owner: str
    created_at: Instant
    updated_at: Instant
    updated_by: str
    version: int
    description: str = ""
    shared_with: tuple[str, ...] = ()


class SecretsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """GET secrets: those the caller may use, by name."""

    secrets: tuple[SecretAnswer, ...]


class SecretValue(msgspec.Struct, frozen=True, kw_only=True):
    """POST secrets/{name}/value: the exact bytes, as of `version`."""

    name: str
    env_name: str
    version: int
    value: bytes

    def __repr__(self) -> str:
        return repr_without(self, "value")


def check_secret(name: str, env_name: str, description: str, shared_with: tuple[str, ...]) -> None:
    """INVALID_REQUEST, naming every problem, unless a secret can be like this."""
    problems = list(_problems(name, env_name, description, shared_with))
    if problems:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, "; ".join(problems[:5]))


def check_value(value: bytes) -> None:
    """INVALID_REQUEST or TOO_LARGE unless this can be a secret's value. The message tells nothing of it."""
    if len(value) > MAX_VALUE_BYTES:
        raise RunvoyError(
            ErrorCode.TOO_LARGE, f"the value has more than the {MAX_VALUE_BYTES:,} bytes that a secret may have"
        )
    if b"\0" in value:
        raise RunvoyError(
            ErrorCode.INVALID_REQUEST,
            "the value holds a NUL byte, which no variable can",
            "Encode it, in base64 say, and decode it in the command.",
        )
    if len(value.strip()) < MIN_VALUE_BYTES:
        raise RunvoyError(
            ErrorCode.INVALID_REQUEST,
            f"the value has fewer than {MIN_VALUE_BYTES} bytes, not counting white space around it: it could not be masked",
            "What is so short is no secret worth the name; take a longer one.",
        )


def _problems(name: str, env_name: str, description: str, shared_with: tuple[str, ...]) -> Iterator[str]:
    if not is_name(name):
        yield f"{name[:64]!r} is no name for a secret (letters, digits and ._/:@+-, at most 128)"
    problem = env_name_problem(env_name) or _loading_problem(env_name)
    if problem is not None and env_name not in git_sources.CREDENTIALS:
        yield problem
    if len(description) > MAX_DESCRIPTION_LENGTH or not description.isprintable():
        yield f"the description is over {MAX_DESCRIPTION_LENGTH} characters or not printable"
    if len(shared_with) > MAX_SHARED_WITH or len(set(shared_with)) != len(shared_with):
        yield f"a secret is shared with at most {MAX_SHARED_WITH} different users"
    yield from _user_problems(shared_with)


def _loading_problem(env_name: str) -> str | None:
    if env_name in _LOADING or env_name.startswith(_LOADING_PREFIXES):
        return f"a secret cannot be the variable {env_name}: it would change what the programs of a command load or run"
    return None


def _user_problems(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if name != EVERYONE:
            try:
                check_user_name(name)
            except RunvoyError as error:
                yield error.message
