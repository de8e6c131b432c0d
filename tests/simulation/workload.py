"""What clients ask for: requests, the same again, others under the same id; kills, forced releases, revocations."""

from __future__ import annotations

import json
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from tests.simulation.platform import CAPACITY, MINUTE_MS, REFUSED, Plan

from runvoy_agent.core.model import LockRecord
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.quotas import counts
from runvoy_agent.ports import Add, Launch, LaunchOutcome
from runvoy_protocol import batches, codec, envelope, ids, keys, object_keys
from runvoy_protocol.batches import Batch, BatchedRequest
from runvoy_protocol.envelope import PayloadType
from runvoy_protocol.requests import RunRequest
from runvoy_protocol.states import State

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

GRANT_MS = 55 * MINUTE_MS
BATCH_SIZES = (1, 3, 4, 10)  # a range has three
LOW_ID = "019e"  # what the ids of this year begin with


class Workload:
    """Plans everything at its time, before the run begins or while it goes."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._scheduler = simulation.scheduler
        stream = simulation.scheduler.stream
        # Of what clients send nothing depends on what became of what they sent before: they draw alone.
        self._rng = stream("clients")
        self._kills, self._numbers, self._refusals = stream("kills"), stream("numbers"), stream("refusals")
        self._settings = simulation.settings
        self._revoked: set[str] = set()
        self._to_revoke: dict[str, int] = {}  # key id → from when on, at its next upload
        self._granted_ms: dict[str, int] = {}
        self._full_until_ms = 0
        self._count = 0

    def plan(self) -> None:
        """Put the whole run's wishes into the scheduler."""
        simulation, rng = self._simulation, self._rng
        simulation.platform.plan = self.plan_task
        simulation.platform.refusal = self.refusal
        window = self._settings.arrival_ms
        for at_ms in range(40 * MINUTE_MS, window, 40 * MINUTE_MS):
            self._scheduler.at(at_ms, self.renew_grants)
        batched = 0
        for _ in range(self._settings.batch_count):
            batched += (size := rng.choice(BATCH_SIZES))
            self._scheduler.at(1000 + rng.randrange(window), partial(self._submit_batch, size))
        for _ in range(max(1, self._settings.requests - batched)):
            self._scheduler.at(1000 + rng.randrange(window), self._submit)
        for _ in range(max(1, self._settings.requests // 100)):
            self._scheduler.at(rng.randrange(window), self._force_release)
            self._scheduler.at(rng.randrange(window), self._fill)
        for _ in range(max(2, self._settings.requests // 20)):
            self._scheduler.at(rng.randrange(window), self._kill_active)
        for signing_key in simulation.members[: round(len(simulation.members) * self._settings.revoked)]:
            self._to_revoke[signing_key.key_id] = rng.randrange(window)
        simulation.secrecy.plan(window)
        for _ in range(self._settings.miscounts):
            self._scheduler.at(rng.randrange(window), self._miscount)
            self._scheduler.at(rng.randrange(window), self._recount)
        if self._settings.process_crashes:
            for _ in range(3):
                down_ms = rng.choices([100, 3_000, MINUTE_MS, 10 * MINUTE_MS], [6, 6, 3, 1])[0]
                self._scheduler.at(rng.randrange(window), partial(simulation.crash_process, down_ms))

    def renew_grants(self) -> None:
        """Every client gets an upload grant; without one the reconciler does not look for its uploads."""
        for signing_key in self._simulation.members:
            if signing_key.key_id not in self._revoked:
                self._granted_ms[signing_key.key_id] = self._scheduler.now_ms
                self._grant(signing_key)

    def _grant(self, signing_key: keys.SigningKey) -> None:
        """Until it has one; uploads go on under the last one meanwhile."""

        def again() -> None:
            self._scheduler.at(1000, partial(self._grant, signing_key))

        self._simulation.call("grant", signing_key, "POST", "/grants/inbox", again=again)

    # -- requests

    def _submit(self) -> None:
        rng = self._rng
        signing_key = rng.choice(self._simulation.members)
        if not self._may_upload(signing_key):
            return
        self._count += 1
        request = self._request(self._request_id(signing_key), f"c{self._count}")
        self._upload(request, signing_key)
        if rng.random() < self._settings.duplicates:
            self._repeat(request, signing_key)
        if self._scheduler.now_ms > self._to_revoke.get(signing_key.key_id, 10**15):
            # While its delivery is on the way and under way: that is when it matters who commits first.
            del self._to_revoke[signing_key.key_id]
            self._scheduler.at(rng.randrange(self._settings.revoked_within_ms), partial(self._revoke, signing_key))
        if rng.random() < 0.1:
            killer = signing_key if rng.random() < 0.7 else self._simulation.operator
            self._scheduler.at(rng.randrange(120_000), lambda: self._kill(request.request_id, killer))

    def _submit_batch(self, size: int) -> None:
        """Some requests under one signature, and perhaps again: the same object, or the same requests signed anew beside
        others, one of them by itself, one with other content."""
        rng = self._rng
        signing_key = rng.choice(self._simulation.members)
        if not self._may_upload(signing_key):
            return
        made = []
        for _ in range(size):
            self._count += 1
            made.append(self._request(self._request_id(signing_key), f"c{self._count}"))
        sealed = self._upload_batch(made, signing_key)
        kind = rng.random()
        if kind < 0.3 and sealed:
            batch_id, raw = sealed
            again = object_keys.batch(signing_key.key_id, batch_id)
            self._scheduler.at(rng.randrange(90_000), partial(self._simulation.upload, again, raw))
        elif kind < 0.6:
            later = self._simulation.clock.now() + timedelta(seconds=1)
            anew = [
                msgspec.structs.replace(one, issued_at=later, expires_at=later + timedelta(minutes=15)) for one in made
            ]
            self._count += 1
            anew.append(self._request(self._request_id(signing_key), f"c{self._count}"))
            anew[0] = msgspec.structs.replace(anew[0], command=("run", f"{anew[0].command[-1]}-other"))
            self._scheduler.at(rng.randrange(90_000), partial(self._repeat_batch, anew, signing_key))
        elif kind < 0.8:
            self._scheduler.at(rng.randrange(90_000), partial(self._upload, rng.choice(made), signing_key))
        if self._scheduler.now_ms > self._to_revoke.get(signing_key.key_id, 10**15):
            del self._to_revoke[signing_key.key_id]
            self._scheduler.at(rng.randrange(self._settings.revoked_within_ms), partial(self._revoke, signing_key))

    def _repeat_batch(self, made: list[RunRequest], signing_key: keys.SigningKey) -> None:
        self._upload_batch(made, signing_key)

    def _upload_batch(self, made: list[RunRequest], signing_key: keys.SigningKey) -> tuple[str, bytes] | None:
        if not self._may_upload(signing_key):
            return None
        batch_id = ids.uuid7(self._simulation.clock.now(), self._rng.randbytes(10))
        batched = tuple(BatchedRequest(one.request_id, codec.encode(one)) for one in made)
        raw = batches.seal_batch(Batch(1, batch_id, batched), signing_key)
        for one in made:
            self._simulation.oracles.uploaded(signing_key.key_id, one.request_id, raw, one.command[-1], batch_id)
        self._scheduler.note("client", f"uploads the batch {batch_id} of {len(made)}")
        self._simulation.upload(object_keys.batch(signing_key.key_id, batch_id), raw)
        return batch_id, raw

    def _may_upload(self, signing_key: keys.SigningKey) -> bool:
        """A revoked key's last grant goes on for a while."""
        return self._scheduler.now_ms < self._granted_ms[signing_key.key_id] + GRANT_MS

    def _request_id(self, signing_key: keys.SigningKey) -> str:
        if self._rng.random() >= self._settings.odd_ids:
            return ids.uuid7(self._simulation.clock.now(), self._rng.randbytes(10))
        if self._rng.random() < 0.2:
            # A request that was prepared long ago, or by a clock far ahead.
            made_at = self._simulation.clock.now() + timedelta(hours=self._rng.randrange(-9_000, 1_000))
            return ids.uuid7(made_at, self._rng.randbytes(10))
        # The rare ids that sort before all that are made by time: a listing from some moment on passes over them.
        low = self._rng.random() < 0.2
        number = 0
        while ((found := signing_key.execution_id_of(f"deploy-{self._count}-{number}")) < LOW_ID) is not low:
            number += 1
        return found

    def _request(self, request_id: str, content: str) -> RunRequest:
        rng, now = self._rng, self._simulation.clock.now()
        locks = self._settings.lock_names
        wanted = rng.choices([0, 1, 2, 3], [5, 8, 4, 2])[0]
        patient = self._settings.everyone_waits
        wanted = max(1, wanted) if patient else wanted
        return RunRequest(
            version=1,
            deployment_id="here",
            request_id=request_id,
            issued_at=now,
            expires_at=now + timedelta(minutes=rng.choice([15, 60])),
            command=("run", content),
            locks=tuple(rng.sample(locks, min(wanted, len(locks)))),
            if_locked="fail" if rng.random() < 0.1 and not patient else "wait",
            timeout_seconds=rng.choice([5, 60, 600, 3600]),
            secrets=self._simulation.secrecy.draw(),
            queue_timeout_seconds=rng.choice([10, 120, 2000]) if rng.random() < 0.15 and not patient else None,
        )

    def _repeat(self, request: RunRequest, signing_key: keys.SigningKey) -> None:
        """The client tries again: the same bytes, the same request signed anew, or another under the same id."""
        now = self._simulation.clock.now()
        kind = self._rng.random()
        if 0.5 <= kind < 0.8:
            later = now + timedelta(seconds=1)
            request = msgspec.structs.replace(request, issued_at=later, expires_at=later + timedelta(minutes=15))
        elif kind >= 0.8:
            request = msgspec.structs.replace(request, command=("run", f"{request.command[-1]}-other"))
        if kind >= 0.95:
            signing_key = self._rng.choice(self._simulation.members)
        self._scheduler.at(self._rng.randrange(90_000), lambda: self._upload(request, signing_key))

    def _upload(self, request: RunRequest, signing_key: keys.SigningKey) -> None:
        if not self._may_upload(signing_key):
            return
        raw = envelope.seal(PayloadType.RUN_REQUEST, codec.encode(request), signing_key)
        digest = self._simulation.oracles.uploaded(
            signing_key.key_id, request.request_id, raw, request.command[-1]
        ).object_sha256
        self._scheduler.note("client", f"uploads {request.request_id} {digest[:8]} locks {request.locks}")
        self._simulation.upload(object_keys.request(signing_key.key_id, request.request_id), raw)

    # -- everything else

    def _kill(self, execution_id: str, signing_key: keys.SigningKey) -> None:
        self._simulation.oracles.kill_asked.add(execution_id)
        self._simulation.call("kill", signing_key, "DELETE", f"/executions/{execution_id}")

    def _kill_active(self) -> None:
        """The operator kills something that has a task, or is about to."""
        executions = self._simulation.oracles.executions
        active = [name for name, execution in executions.items() if execution.state in (State.STARTING, State.RUNNING)]
        if active:
            self._kill(self._kills.choice(active), self._simulation.operator)

    def _revoke(self, signing_key: keys.SigningKey) -> None:
        from tests.simulation.simulation import revoke

        self._revoked.add(signing_key.key_id)
        revoke(self._simulation, signing_key)

    def _force_release(self) -> None:
        """An operator takes a lock from whoever runs under it."""
        rows = self._simulation.records.rows
        for name in self._settings.lock_names:
            row = rows.get(store.lock_key(name))
            if row is None:
                continue
            queue = msgspec.json.decode(row[0], type=LockRecord).queue
            if queue and self._simulation.oracles.executions[queue[0]].state is State.RUNNING:
                body = json.dumps({"execution_id": queue[0]}).encode()
                self._simulation.call("release", self._simulation.operator, "POST", f"/locks/{name}/release", body)
                return
        if self._scheduler.faults.enabled:  # nobody runs under a lock just now
            self._scheduler.at(3_000, self._force_release)

    def _miscount(self) -> None:
        """Another version, or a hand in the table, makes somebody's number wrong that is right. (One that is made wrong again the other
        way, while an earlier look at it waits to be confirmed, may be put right by too much, and is then put right once more.)"""
        rng = self._numbers
        owner = f"dev{rng.randrange(len(self._simulation.members))}"
        key = rng.choice([counts.unfinished_key(owner), counts.running_key(owner)])
        amount = rng.choice([-2, -1, 1, 2, 5])
        if self._simulation.oracles.is_wrong(key):
            return
        self._simulation.oracles.miscounted(key, amount)
        self._simulation.records.miscount(Add(key, amount))
        if rng.random() < 0.5:
            self._scheduler.at(rng.randrange(2_000), self._recount)

    def _recount(self) -> None:
        """An admin asks for a recount, beside the reconciler's rounds and another admin's."""
        admin = self._simulation.admin
        for _ in range(2):
            if admin is not None and self._settings.recounted:
                self._simulation.call("recount", admin, "POST", "/quotas/recount", b"{}")

    def _fill(self) -> None:
        """The platform has no room for a while."""
        self._full_until_ms = self._scheduler.now_ms + self._rng.randrange(60_000)

    def refusal(self) -> LaunchOutcome | None:
        if not self._scheduler.faults.enabled:
            return None
        drawn = self._refusals.random()
        if self._scheduler.now_ms < self._full_until_ms or drawn < 0.03:
            return CAPACITY
        return REFUSED if drawn > 0.99 else None

    def plan_task(self, launch: Launch) -> Plan:
        """What becomes of a task; without faults it begins soon and ends by itself."""
        rng, settings = self._scheduler.stream(f"plan {launch.execution_id}-{launch.attempt}"), self._settings
        hurt = rng.random() if self._scheduler.faults.enabled else 1.0
        fields: dict[str, Any] = {
            "boot_ms": rng.randrange(50, 5_000)
            if rng.random() >= self._settings.slow_boots
            else rng.randrange(120_000),
            "duration_ms": rng.randrange(100, 20_000)
            if rng.random() >= self._settings.long_runs
            else rng.randrange(30 * MINUTE_MS),
            "exit_code": rng.choices([0, 1, 137], [7, 2, 1])[0],
            "lag_ms": rng.randrange(30_000) if rng.random() < 0.2 else 0,
            "stop_delay_ms": rng.randrange(10, 30_000) if rng.random() < 0.2 else 50,
        }
        if hurt < 0.01:
            fields["boot_ms"] = None
        elif hurt < 0.04:
            fields["dies"] = True
        elif hurt < 0.05:
            fields["vanishes"] = True
        elif hurt < (below := 0.05 + settings.deaf):
            fields |= {"deaf": True, "duration_ms": 10**9}
        elif hurt < (below := below + settings.no_room):
            fields["no_room"] = True
        elif hurt < below + settings.lingering:
            fields["lingers"] = True
        if rng.random() < self._settings.skewed:
            fields["skew_ms"] = rng.randrange(-10 * MINUTE_MS, 10 * MINUTE_MS)
        return Plan(**fields)
