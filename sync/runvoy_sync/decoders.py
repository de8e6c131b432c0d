"""What must happen before there is a second thread.

msgspec works out how to decode a type when it is first asked to. Two threads that ask for the same type at that moment bring the
interpreter down (a segmentation fault, seen within some dozens of starts with six threads).
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from runvoy_protocol import control, envelope, logs, receipts, requests, status
from runvoy_sync import request_file
from runvoy_sync.outgoing import Entry

_DECODED = (
    control.ErrorAnswer,
    control.ExecutionAnswer,
    control.ExecutionsPage,
    control.Health,
    control.InboxGrant,
    control.LogGrantsAnswer,
    control.OutboxGrant,
    logs.LogRecord,
    receipts.Receipt,
    status.ExecutionStatus,
    Entry,
)


def prepare() -> None:
    """Have every type worked out that threads decode."""
    for kind in _DECODED:
        msgspec.json.Decoder(kind)
    msgspec.msgpack.Decoder(envelope.Envelope)
    wanted = request_file.read(Path("sample.yml"), b"command: 'true'\n")  # signed messages: by what decodes them
    requests.decode(requests.encode(msgspec.structs.replace(wanted.request, deployment_id="none")))
