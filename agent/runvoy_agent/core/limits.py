"""What a limited key may ask for: judged at admission, on the request and on what the deployment made of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from runvoy_protocol import requests
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.members import KeyLimits, PlaybookPin
from runvoy_protocol.requests import RunRequest


def check_limits(limits: KeyLimits | None, request: RunRequest, image_name: str | None) -> None:
    """FORBIDDEN, naming every limit that the request exceeds. `image_name` is the name of the registered image that the request
    resolved to; where it resolved to none, what it names itself."""
    problems = [] if limits is None else list(_problems(limits, request, image_name))
    if problems:
        raise RunvoyError(
            ErrorCode.FORBIDDEN,
            f"the key is limited: {'; '.join(problems)}",
            "Ask for what the key allows (`runvoy whoami`), or use another key.",
        )


def _problems(limits: KeyLimits, request: RunRequest, image_name: str | None) -> Iterator[str]:
    if limits.images is not None and image_name not in limits.images:
        yield f"it may use {_listed(limits.images)} as an image, not {image_name or 'none'}"
    if limits.locks is not None:
        for name in request.locks:
            if name not in limits.locks:
                yield f"it may take {_listed(limits.locks)} as a lock, not {name}"
    if limits.playbooks is not None:
        yield from _playbook_problems(limits.playbooks, request)
    for name, value in (limits.labels or {}).items():
        if request.labels.get(name) != value:
            yield f"a run must carry the label {name}={value}"


def _playbook_problems(pins: Collection[PlaybookPin], request: RunRequest) -> Iterator[str]:
    pin = next((pin for pin in pins if pin.name == request.playbook), None)
    if pin is None:
        yield f"it may run {_listed([pin.name for pin in pins])} as a playbook, not {request.playbook or 'other commands'}"
    elif requests.playbook_digest(request, pin.parameters) != pin.digest:
        # Names of variables that the playbook does not declare are part of the digest, too.
        variables = f"parameters ({', '.join(pin.parameters)}), " if pin.parameters else ""
        yield (
            f"this is not the playbook {pin.name} as it was when the key was limited to it: only its {variables}labels, name "
            "and how it waits are the caller's; a playbook that was changed since needs another key"
        )


def _listed(names: Collection[str]) -> str:
    return " or ".join(names)
