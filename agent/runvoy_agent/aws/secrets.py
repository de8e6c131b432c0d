"""The Secrets port on SSM parameters: SecureStrings under a customer managed key.

A parameter of the standard tier holds 4,096 characters and costs nothing, so a value is its base64 in one parameter, or,
when that is too long, in numbered parts of it:

    {path}/{hash of the name}                        =…base64…, or  @{generation}:{parts}
    {path}/{hash of the name}/{generation}/{number}  …base64…

The first parameter is written last, in one call: readers see the old value or the new one, whole, and so does whoever reads after
the writer died of it. Parts of what it no longer names are deleted after; those of a value that never came into effect, with the
secret. The name itself may be anything; it is told in the first parameter's description.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from runvoy_agent.aws.clients import Clients
from runvoy_agent.aws.faults import THROTTLED, calling, code_of, tries_of
from runvoy_agent.ports import PreconditionFailed, Unavailable

_PART_CHARACTERS = 4096
_BATCH = 10  # names in one call
_READ_TRIES = 5
_READ_PAUSE_SECONDS = 0.2
_DESCRIPTION_CHARACTERS = 512
_THROTTLED_SECONDS = 15
"""For so long a put goes on beyond the client's own tries of each write: SSM takes a few a second, 64 KiB are 23 of them, and whoever
called begins anew with all of them. A function that is called has 30 s."""
_MANIFEST = re.compile(r"@([0-9a-f]{32}):([1-9][0-9]{0,3})\Z")
_INLINE_MARK = "="


class _Manifest(NamedTuple):
    """Where the parts of a long value are."""

    generation: str
    parts: int


class SsmSecrets:
    """Secrets under `path` (no slash at the end). Values of any bytes; 64 KiB make 22 parameters."""

    def __init__(
        self, clients: Clients, path: str, key_id: str, *, throttled_seconds: float = _THROTTLED_SECONDS
    ) -> None:
        self._clients = clients
        self._throttled_seconds = throttled_seconds
        self._path = path
        self._key_id = key_id

    def put(self, name: str, value: bytes, *, if_absent: bool = False) -> None:
        """As the port says. When it raises, the value in effect is the old one or the new one, and putting it again is
        right."""
        parameter = self._parameter(name)
        until = time.monotonic() + self._throttled_seconds
        encoded = base64.b64encode(value).decode()
        before = None if if_absent else _manifest(self._read(parameter))
        if len(encoded) < _PART_CHARACTERS:
            content, written = _INLINE_MARK + encoded, None
        else:
            parts = [encoded[at : at + _PART_CHARACTERS] for at in range(0, len(encoded), _PART_CHARACTERS)]
            written = _Manifest(secrets.token_hex(16), len(parts))
            for part_name, part in zip(_names(parameter, written), parts, strict=True):
                # Nobody else writes there: its name is new. And an answer that was lost is no other's parameter.
                self._write(part_name, part, "part of a secret of runvoy", overwrite=True, until=until)
            content = f"@{written.generation}:{written.parts}"
        try:
            self._write(parameter, content, _description(name), overwrite=not if_absent, until=until)
        except PreconditionFailed as error:
            if written is not None:
                self._remove(list(_names(parameter, written)))
            raise PreconditionFailed(f"the secret {name!r} exists") from error
        if before is not None:
            self._remove(list(_names(parameter, before)))

    def get(self, name: str) -> bytes | None:
        """The value; Unavailable if parts of it are gone."""
        parameter = self._parameter(name)
        for tried in range(_READ_TRIES):
            if tried:
                time.sleep(_READ_PAUSE_SECONDS)
            content = self._read(parameter)
            if content is None:
                return None
            manifest = _manifest(content)
            if manifest is None:
                return _decoded(content.removeprefix(_INLINE_MARK), name)
            parts = self._read_all(list(_names(parameter, manifest)))
            if None not in parts:
                return _decoded("".join(part for part in parts if part is not None), name)
            # Replaced or deleted between the two reads, or not seen everywhere yet: the next look tells.
        if not any(parts):
            return None  # its deletion was cut off between the parts and the manifest
        raise Unavailable(f"the secret {name!r} cannot be read: parts of it are missing")

    def delete(self, name: str) -> None:
        """As the port says. The parts first: when this is cut off, nothing of the value stays behind unnamed."""
        parameter = self._parameter(name)
        self._remove(self._parts_of(parameter))
        self._remove([parameter])

    # -- inside

    @property
    def _ssm(self) -> Any:
        return self._clients.get("ssm")

    def _parameter(self, name: str) -> str:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
        return f"{self._path}/{digest}"

    def _write(self, parameter: str, content: str, description: str, *, overwrite: bool, until: float) -> None:
        request = {
            "Name": parameter,
            "Value": content,
            "Description": description,
            "Type": "SecureString",
            "KeyId": self._key_id,
            "Tier": "Standard",
            "Overwrite": overwrite,
        }
        was_tried = False
        with calling("writing a secret"):
            while True:
                try:
                    self._ssm.put_parameter(**request)
                    return
                except ClientError as error:
                    was_tried = was_tried or tries_of(error) > 1
                    if code_of(error) == "ParameterAlreadyExists":
                        if was_tried and self._read(parameter) == content:
                            return  # by the try before, whose answer was lost
                        raise PreconditionFailed(parameter) from error
                    if code_of(error) not in THROTTLED or time.monotonic() >= until:
                        raise
                    was_tried = True  # the client paused between its own tries

    def _read(self, parameter: str) -> str | None:
        with calling("reading a secret"):
            try:
                return str(self._ssm.get_parameter(Name=parameter, WithDecryption=True)["Parameter"]["Value"])
            except ClientError as error:
                if code_of(error) == "ParameterNotFound":
                    return None
                raise

    def _read_all(self, parameters: Sequence[str]) -> list[str | None]:
        found: dict[str, str] = {}
        for at in range(0, len(parameters), _BATCH):
            with calling("reading a secret"):
                answer = self._ssm.get_parameters(Names=parameters[at : at + _BATCH], WithDecryption=True)
            found |= {parameter["Name"]: parameter["Value"] for parameter in answer["Parameters"]}
        return [found.get(parameter) for parameter in parameters]

    def _parts_of(self, parameter: str) -> list[str]:
        """Names of parts that are there, of whatever generation: of a value that was replaced half-way, too."""
        request: dict[str, Any] = {"Path": parameter, "Recursive": True, "MaxResults": _BATCH}
        found: list[str] = []
        while True:  # a page may be empty and not the last
            with calling("listing the parts of a secret"):
                answer = self._ssm.get_parameters_by_path(**request)
            found += [part["Name"] for part in answer["Parameters"]]
            if not answer.get("NextToken"):
                return found
            request["NextToken"] = answer["NextToken"]

    def _remove(self, parameters: Sequence[str]) -> None:
        for at in range(0, len(parameters), _BATCH):
            with calling("deleting a secret"):
                self._ssm.delete_parameters(Names=parameters[at : at + _BATCH])


def _names(parameter: str, manifest: _Manifest) -> Iterator[str]:
    for number in range(1, manifest.parts + 1):
        yield f"{parameter}/{manifest.generation}/{number:04d}"


def _manifest(content: str | None) -> _Manifest | None:
    match = _MANIFEST.match(content or "")
    return None if match is None else _Manifest(match.group(1), int(match.group(2)))


def _decoded(encoded: str, name: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise Unavailable(f"the secret {name!r} cannot be read: its parameter was not written by runvoy") from error


def _description(name: str) -> str:
    """The name as far as it can be shown, for whoever looks at the parameters."""
    shown = "".join(character if character.isascii() and character.isprintable() else "?" for character in name)
    return f"runvoy secret {shown}"[:_DESCRIPTION_CHARACTERS]
