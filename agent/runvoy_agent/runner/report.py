"""started.json and result.json: what the runner says, authenticated with the execution key."""

from __future__ import annotations

import hmac
import json

from runvoy_agent.runner.ending import Clock, Ending
from runvoy_agent.runner.output import Output
from runvoy_agent.runner.payload import Payload
from runvoy_agent.runner.shipping import Shipper


class Reports:
    """Writes the two reports. `{"body": <JSON text>, "mac": hex HMAC-SHA256(execution key, kind + "\\n" + body)}`."""

    def __init__(self, payload: Payload, shipper: Shipper, clock: Clock) -> None:
        self._payload = payload
        self._key = payload.execution_key
        self._about = {"execution_id": payload.execution_id, "attempt": payload.attempt}
        self._clock = clock
        self._shipper = shipper

    def started(self, pid: int) -> None:
        self._put("started", {"started_at_ms": self._clock.started_at_ms, "pid": pid})

    def result(self, ending: Ending, output: Output) -> None:
        fields: dict[str, object] = {
            "outcome": ending.outcome,
            "exit_code": ending.exit_code,
            "signal": ending.signal,
            "message": output.showable(ending.message),
            "started_at_ms": self._clock.started_at_ms,
            "ended_at_ms": self._clock.now_ms() if ending.at_ms is None else ending.at_ms,
            "lines": output.lines,
            "chunks": output.chunks,
            "lost_bytes": output.lost_bytes,
        }
        self._put("result", fields)

    def _put(self, kind: str, fields: dict[str, object]) -> None:
        commit = self._payload.git_commit
        checked_out = {} if commit is None else {"git_commit": commit}
        body = json.dumps(self._about | fields | checked_out)
        mac = hmac.digest(self._key, f"{kind}\n{body}".encode(), "sha256").hex()
        self._shipper.put(f"{kind}.json", json.dumps({"body": body, "mac": mac}).encode())
