"""Values as people write them on the command line and in files: durations, sizes, NAME=VALUE pairs, ids.

Every function raises UsageProblem with a message that names the value and shows a right one.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from runvoy_cli.input.problems import UsageProblem
from runvoy_protocol import git_sources, ids
from runvoy_protocol.keys import SigningKey
from runvoy_protocol.members import MAX_QUOTA, Role

USER_ENV_PREFIX = "RUNVOY_USER_"

_DURATION = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,8})h)?(?:(\d{1,8})m)?(?:(\d{1,10})s)?\Z", re.ASCII)
_MEMORY = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*(m|mb|mib|g|gb|gib)?\Z", re.ASCII | re.IGNORECASE)
_SMALLEST_CPU_UNITS = 64
_UNITS_PER_VCPU = 1024


def duration(text: str) -> int:
    """Seconds of `30s`, `10m`, `1h30m`, `2d` or a bare number of seconds."""
    cleaned = text.strip().lower()
    if re.fullmatch(r"[0-9]{1,10}", cleaned):
        return int(cleaned)
    match = _DURATION.match(cleaned)
    if not cleaned or match is None:
        raise UsageProblem(f"{text[:64]!r} is no duration", "Write it like 30s, 10m, 1h30m, or as seconds: 600.")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def moment(text: str, now: datetime) -> datetime:
    """The instant of `--since`: a duration before `now`, or a time in RFC 3339."""
    if not text.strip():
        raise UsageProblem("a time is empty", "Write it like 10m (ago), or 2030-01-31T09:00:00Z.")
    try:
        if not text.strip().isdigit():
            return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except (ValueError, OverflowError):  # the latter for a time in no year that UTC has
        pass
    try:
        return now - timedelta(seconds=duration(text))
    except (UsageProblem, OverflowError) as error:
        raise UsageProblem(f"{text[:64]!r} is no time", "Write it like 10m (ago), or 2030-01-31T09:00:00Z.") from error


def check_moments(*texts: str | None) -> None:
    """UsageProblem for what is no time. For before a deployment is asked, whose clock `moment` goes by."""
    for text in texts:
        if text is not None:
            moment(text, datetime.now(UTC))


def memory_mib(text: str) -> int:
    """MiB of `512m`, `2g`, `1.5g` or a bare number of MiB."""
    match = _MEMORY.match(text.strip())
    if match is None:
        raise UsageProblem(f"{text[:64]!r} is no amount of memory", "Write it like 512m or 2g, or as MiB: 512.")
    number, unit = match.groups()
    mib = float(number) * (1024 if (unit or "m").lower().startswith("g") else 1)
    if mib != int(mib):
        raise UsageProblem(f"{text[:64]!r} is no whole number of MiB", "Write it like 512m or 2g, or as MiB: 512.")
    return int(mib)


def cpu_units(text: str) -> int:
    """CPU units (1,024 are one vCPU) of `256`, or of a number of vCPUs below 64 such as `0.5` or `2`."""
    try:
        number = float(text) if re.fullmatch(r"[0-9.]{1,9}", text.strip()) else -1.0
    except ValueError:
        number = -1.0
    units = number if number >= _SMALLEST_CPU_UNITS else number * _UNITS_PER_VCPU
    if units <= 0 or units != int(units):
        raise UsageProblem(
            f"{text[:64]!r} is no amount of CPU", "Write vCPUs, like 0.5 or 2, or units: 512 (1,024 a vCPU)."
        )
    return int(units)


def git_depth(text: str) -> str:
    """A number of commits, as the variable has it that tells it."""
    if git_sources.depth_problem({git_sources.DEPTH: text}):
        raise UsageProblem(
            f"{text!r} is no number of commits", f"Write one up to {git_sources.MAX_DEPTH:,}, or 0 for all."
        )
    return text


def label_filter(text: str) -> str:
    """A filter by label: NAME, or NAME=VALUE."""
    if not text.partition("=")[0]:
        raise UsageProblem("--label has no name", "Write it --label NAME or --label NAME=VALUE.")
    return text


def pairs(option: str, texts: Iterable[str]) -> dict[str, str]:
    """NAME=VALUE pairs; the last of a name wins."""
    found: dict[str, str] = {}
    for position, text in enumerate(texts, start=1):
        name, equals, value = exact_text(text, f"{option} number {position}").partition("=")
        if not equals or not name:
            # The value is not shown: it may be a password whose name was forgotten.
            raise UsageProblem(f"{option} number {position} has no NAME=VALUE form", f"Write {option} NAME=VALUE.")
        found[name] = value
    return found


def variables(option: str, texts: Iterable[str], environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The same for variables, where NAME alone stands for the one of this process: its value is on no command line then."""

    def whole(position: int, text: str) -> str:
        if "=" in text:
            return text
        if text not in environ:
            # Nor is the name shown: it may be a password whose name was forgotten.
            raise UsageProblem(
                f"{option} number {position} has no NAME=VALUE form, and is no variable of the environment",
                f"Write {option} NAME=VALUE, or export NAME and write {option} NAME.",
            )
        return f"{text}={environ[text]}"

    return pairs(option, [whole(position, text) for position, text in enumerate(texts, start=1)])


def exact_text(text: str, what: str) -> str:
    """`text` as the UTF-8 that the shell passed, whatever the locale made of it."""
    if text.isascii():
        return text
    try:
        return os.fsencode(text).decode()
    except UnicodeError as error:
        raise UsageProblem(
            f"{what} is not valid UTF-8, which is all a request can carry",
            "Encode the bytes, in base64 say, and decode them in the command.",
        ) from error


def words(texts: Iterable[str]) -> tuple[str, ...]:
    """The command's words exactly; positions count from 1 as a shell's do."""
    return tuple(exact_text(text, f"word {position} of the command") for position, text in enumerate(texts, start=1))


def user_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """RUNVOY_USER_X=… of the client's environment, as X."""
    return {
        exact_text(name, "a variable's name")[len(USER_ENV_PREFIX) :]: exact_text(value, f"the value of {name}")
        for name, value in environ.items()
        if name.startswith(USER_ENV_PREFIX) and len(name) > len(USER_ENV_PREFIX)
    }


def env_file(path: Path) -> dict[str, str]:
    """Variables of a file with one NAME=VALUE a line.

    Blank lines and lines that begin with # are skipped, `export ` in front of a name too; one pair of quotes around a
    whole value is taken off. Nothing is expanded.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageProblem(f"--env-file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageProblem(f"--env-file {path} is not valid UTF-8 (byte {error.start})") from error
    found: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, equals, value = stripped.removeprefix("export ").partition("=")
        if not equals or not name.strip():
            raise UsageProblem(f"line {number} of --env-file {path} has no NAME=VALUE form")
        found[name.strip()] = _unquoted(value.strip())
    return found


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value


def execution_id(text: str) -> str:
    """An execution id as runvoy prints it; a UUID's usual form with dashes and capitals is taken too."""
    plain = text.strip().lower().replace("-", "")
    if not ids.is_execution_id(plain):
        raise UsageProblem(
            f"{text[:80]!r} is no execution id",
            "An id is the 32 hex digits that `runvoy submit` prints; see `runvoy list`.",
        )
    return plain


def ids_on_stdin() -> list[str]:
    """The execution ids on standard input, in their order."""
    lines = sys.stdin.read().split()
    if not lines:
        # Not success: an empty pipe is what a failed `submit` leaves.
        raise UsageProblem("there are no ids on standard input", "Pipe what `runvoy submit` printed.")
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(execution_id(line))
        except UsageProblem as problem:
            raise UsageProblem(f"number {number:,} on standard input: {problem.message}", problem.hint) from problem
    return found


def id_text(text: str) -> str:
    """What an `--id` says: an execution id as runvoy prints it, or the text that stands for one."""
    exact = exact_text(text, "the id")
    if not exact:
        raise UsageProblem("the id is empty", "Give it any text that names this one piece of work: deploy-42.")
    plain = exact.strip().lower().replace("-", "")
    return plain if ids.is_execution_id(plain) else exact


def chosen_id(text: str, signing_key: SigningKey) -> str:
    """The execution id for `--id TEXT`: the id itself, or the one that a free text stands for."""
    exact = id_text(text)
    return exact if ids.is_execution_id(exact) else signing_key.execution_id_of(exact)


def role(text: str) -> Role:
    """A member's role."""
    try:
        return Role(text.strip().lower())
    except ValueError as error:
        import difflib

        known = [role.value for role in Role]
        near = [name for name in known if text.strip() and name.startswith(text.strip().lower())]
        near = near or difflib.get_close_matches(text.strip().lower(), known, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise UsageProblem(f"{text[:80]!r} is no role", f"{hint}A role is one of {', '.join(known)}.") from error


def quota(text: str) -> int | None:
    """A quota's number; None for `default`."""
    cleaned = text.strip().lower().replace(",", "").replace("_", "")
    if cleaned == "default":
        return None
    if not re.fullmatch(r"[0-9]{1,10}", cleaned) or int(cleaned) > MAX_QUOTA:
        raise UsageProblem(f"{text[:64]!r} is no quota", f"Give a number from 0 to {MAX_QUOTA:,}, or `default`.")
    return int(cleaned)
