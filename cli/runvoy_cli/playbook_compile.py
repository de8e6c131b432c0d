"""From a playbook to a run request: one constant shell text, and the parameters in variables.

The text is the same for every caller and every value, on every machine: a key can be limited to it (`pin_of`). So what a
parameter must be is checked in the text as well: the deployment knows the text by its digest, and nothing of types. Changing
what is made here changes digests and breaks every key that is limited to a playbook: see ADR 7.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from runvoy_cli.playbook_model import Command, Parameter, Playbook
from runvoy_cli.playbook_placeholders import filled, quoted
from runvoy_cli.problems import UsageProblem
from runvoy_protocol import requests
from runvoy_protocol.members import PlaybookPin
from runvoy_protocol.requests import RunRequest

_MAX_TITLE = 160
_NO_TIME = datetime.fromtimestamp(0, UTC)
_NO_ID = "0" * 12 + "7" + "0" * 3 + "8" + "0" * 15  # a UUIDv7 of 1970


def to_request(playbook: Playbook, values: Mapping[str, str]) -> RunRequest:
    """The request of a playbook with the values of its parameters (Playbook.values_of), but for deployment, id and times.

    Nothing of the machine goes into it: no default of its configuration, no RUNVOY_USER_ variable.
    """
    variables = {one.variable: values[one.name] for one in playbook.parameters.values()}
    return RunRequest(
        version=1,
        deployment_id="none",
        request_id=_NO_ID,
        issued_at=_NO_TIME,
        expires_at=_NO_TIME + requests.MAX_LIFETIME,
        command=shell_text(playbook),
        image=playbook.image,
        env={**playbook.fixed_env, **variables},
        secrets=playbook.secrets,
        locks=playbook.locks,
        timeout_seconds=playbook.timeout_seconds,
        cpu=playbook.cpu,
        memory_mib=playbook.memory_mib,
        git=playbook.git,
        playbook=playbook.name,
        labels={name: filled(text, values) for name, text in playbook.labels.items()},
        name=playbook.name,
    )


def pin(playbook: Playbook) -> PlaybookPin:
    """What limits a key to this playbook as it is now: its parameters stay the caller's choice. UsageProblem if it leaves the
    repository to the caller: the key could then run whatever code lies in one."""
    if not playbook.has_whole_request:
        raise UsageProblem(
            f"the playbook {playbook.name} leaves the repository to whoever runs it: no key can be limited to that",
            "Name the repository in the playbook: git_repo: URL.",
        )
    parameters = tuple(sorted(one.variable for one in playbook.parameters.values()))
    template = to_request(playbook, dict.fromkeys(playbook.parameters, ""))
    digest = requests.playbook_digest(template, parameters)
    return PlaybookPin(name=playbook.name, digest=digest, parameters=parameters)


def shell_text(playbook: Playbook) -> str:
    """What `/bin/sh -c` gets: the parameters' checks, then the commands, each in a shell of its own."""
    lines = [f"# playbook {playbook.name}"]
    if any(_needs_refusing(one) for one in playbook.parameters.values()):
        lines.append(f"refuse() {{ printf '%s\\n' \"playbook {playbook.name}: the parameter $1\" >&2; exit 2; }}")
    for parameter in playbook.parameters.values():
        lines += _parameter_lines(parameter)
    lines += [f"export {name}={word}" for name, word in playbook.exports.items()]
    count = len(playbook.commands)
    for number, command in enumerate(playbook.commands, start=1):
        announcement = f"playbook {playbook.name}: {number} of {count}: {title(command)}"
        lines.append(f"printf '%s\\n' {quoted(announcement)} >&2")
        lines.append(f"/bin/sh -ec {quoted(command.shell)} || exit $?")
    return "\n".join(lines)


def title(command: Command) -> str:
    """The command in one line, as it was written."""
    whole = command.source if isinstance(command.source, str) else shlex.join(command.source)
    first, *more = whole.strip().splitlines() or [""]
    line = "".join(character if character.isprintable() else " " for character in first)
    return line if len(line) <= _MAX_TITLE and not more else line[:_MAX_TITLE] + " …"


def _needs_refusing(parameter: Parameter) -> bool:
    return parameter.required or bool(parameter.rule())


def _parameter_lines(parameter: Parameter) -> Iterator[str]:
    name = parameter.variable
    if parameter.required:
        yield f'[ -n "${{{name}+x}}" ] || refuse {quoted(f"{parameter.name} is missing")}'
    else:
        yield f'[ -n "${{{name}+x}}" ] || {name}={quoted(parameter.default or "")}'
    yield f"export {name}"
    refusal = f"refuse {quoted(f'{parameter.name} {parameter.rule()}')}"
    for check in _checks(parameter, refusal):
        yield f'[ -z "${name}" ] || {check}' if parameter.may_be_empty else check


def _checks(parameter: Parameter, refusal: str) -> Iterator[str]:
    """Lines that refuse a wrong value. Digits are spelled out: what a range like 0-9 holds depends on the locale."""
    name = parameter.variable
    if parameter.allowed is not None:
        yield f'case "${name}" in {"|".join(map(quoted, parameter.allowed))}) ;; *) {refusal} ;; esac'
    elif parameter.type == "int":
        yield f'case "${{{name}#-}}" in 0|[123456789]*) ;; *) {refusal} ;; esac'
        yield f'case "${{{name}#-}}" in *[!0123456789]*) {refusal} ;; esac'
        yield f'[ "${{#{name}}}" -le 19 ] || {refusal}'
    elif parameter.pattern is not None:
        yield f"case \"${name}\" in *'\n'*) {refusal} ;; esac"
        yield f"printf '%s\\n' \"${name}\" | LC_ALL=C grep -Eqx -e {quoted(parameter.pattern)} || {refusal}"
