"""Secrets in the simulation: an operator who creates, changes and deletes them while runs use them, and the books on it.

Off unless asked for, with a randomness of its own: the other runs are the same with and without.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from tests.simulation.oracles import check
from tests.simulation.platform import Task

from runvoy_agent.core.model import Execution, Secret
from runvoy_agent.handlers.documents import store
from runvoy_agent.ports import Put, Write
from runvoy_protocol.states import State

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

_SECRET = "secret#"


class Secrecy:
    """What is asked for, and what must hold: a secret has its value, a run the values of its start, and in the end no
    value is without a secret."""

    def __init__(self, simulation: Simulation, count: int) -> None:
        self._simulation = simulation
        self._rng = simulation.scheduler.stream("secrets")
        self._names = [f"secret{number}" for number in range(count)]
        self._versions = 0
        self._launched: dict[str, dict[str, bytes]] = {}
        self.runs = 0
        simulation.secrets.on_delete = self._deleted

    def draw(self) -> tuple[str, ...]:
        """The secrets that a request names."""
        if not self._names or self._rng.random() < 0.5:
            return ()
        return tuple(self._rng.sample(self._names, self._rng.randrange(1, len(self._names) + 1)))

    def plan(self, window_ms: int) -> None:
        """Changes all through the run, now and then two of one secret at once."""
        for name in self._names:
            self._simulation.scheduler.at(1, partial(self._change, name))
        for _ in range(window_ms // 15_000 if self._names else 0):
            name, at_ms = self._rng.choice(self._names), self._rng.randrange(window_ms)
            for _ in range(self._rng.choice([1, 1, 2])):
                self._simulation.scheduler.at(at_ms, partial(self._change, name))

    def _change(self, name: str) -> None:
        simulation = self._simulation
        row = simulation.records.rows.get(store.secret_key(name))
        self._versions += 1
        value = base64.b64encode(f"{name}, value {self._versions}".encode()).decode()
        if row is None:
            body: dict[str, object] = {"name": name, "env_name": name.upper(), "value": value, "shared_with": ["*"]}
            simulation.call("secret", simulation.operator, "POST", "/secrets", msgspec.json.encode(body))
            return
        drawn = self._rng.random()
        if drawn < 0.15:
            simulation.call("secret", simulation.operator, "DELETE", f"/secrets/{name}?version={row[1]}")
            return
        body = {"version": row[1], "value": value} if drawn < 0.8 else {"version": row[1], "description": value}
        simulation.call("secret", simulation.operator, "PUT", f"/secrets/{name}", msgspec.json.encode(body))

    # -- the books

    def committed(self, writes: Sequence[Write]) -> None:
        for write in writes:
            if not isinstance(write, Put):
                continue
            if write.key.startswith(_SECRET):
                ref = msgspec.json.decode(write.item.body, type=Secret).value_ref
                check(ref in self._simulation.secrets.values, f"{write.key} has no value")
            elif write.key.startswith("execution#"):
                self._started(msgspec.json.decode(write.item.body, type=Execution), write.version)

    def _started(self, execution: Execution, version: int) -> None:
        """At the commit of STARTING, what it is fixed to is what its names stand for."""
        before = self._simulation.oracles.executions.get(execution.execution_id)
        if execution.state is not State.STARTING or before is None or before.state is not State.QUEUED:
            return
        current = {secret.name: secret.value_ref for secret in self._secrets()}
        for fixed in execution.fixed_secrets:
            seen = current.get(fixed.name)
            check(seen == fixed.value_ref, f"{execution.execution_id} was started with an old {fixed.name} ({version})")
        check(tuple(fixed.name for fixed in execution.fixed_secrets) == execution.secrets, "it lacks a secret")

    def launched(self, task: Task) -> None:
        secrets = task.payload.secrets
        earlier = self._launched.setdefault(task.execution_id, secrets)
        check(earlier == secrets, f"{task.execution_id} was launched again with other secrets")
        for variable, value in secrets.items():
            check(value.startswith(variable.lower().encode() + b","), f"{variable} holds another secret's value")
        self.runs += bool(secrets)

    def _deleted(self, ref: str) -> None:
        users = [secret.name for secret in self._secrets() if secret.value_ref == ref]
        check(not users, f"the value of {users} was deleted")

    def judge(self) -> None:
        refs = {secret.value_ref for secret in self._secrets()}
        check(self._simulation.secrets.values.keys() == refs, "a value without a secret is left")
        left = [key for key in self._simulation.records.rows if key.startswith("discarded_value#")]
        check(not left, f"discarded values are left: {left}")

    def _secrets(self) -> list[Secret]:
        rows = self._simulation.records.rows.items()
        return [msgspec.json.decode(body, type=Secret) for key, (body, _) in rows if key.startswith(_SECRET)]
