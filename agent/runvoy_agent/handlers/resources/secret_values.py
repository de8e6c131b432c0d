"""The values of secrets between records and the Secrets port, which have no commit in common.

So at any time each value in the port is referred to by the record of a secret, or by that of a discarded value: one stands
before a value is put, and its record gives way in the very commit that makes a secret refer to it. Whoever dies in between
leaves a discarded value, which the reconciler deletes; never a secret without its value.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from datetime import timedelta

import msgspec

from runvoy_agent.core import secrets
from runvoy_agent.core.lifecycle import START_TIMEOUT
from runvoy_agent.core.model import DiscardedValue, Execution, FixedSecret, Secret, StoredRequest, User
from runvoy_agent.handlers.documents import all_executions, store
from runvoy_agent.handlers.documents.store import Loaded
from runvoy_agent.ports import Check, Conflict, Delete, LaunchRefused, Ports, Put, Records, Unavailable
from runvoy_protocol import requests
from runvoy_protocol.states import State

log = logging.getLogger("runvoy.secrets")

SWEPT_AFTER = timedelta(minutes=15)
"""Longer than whoever put a value can take to refer to it."""

_REF_BYTES = 16

# --- putting and discarding ------------------------------------------------------------------------------------------


def put(ports: Ports, name: str, value: bytes) -> DiscardedValue:
    """Store a value for a secret of this name, referred to by nothing yet: `referred_to` belongs in the commit of the
    secret's record; `discard` follows if that did not happen."""
    ref = ports.clock.random(_REF_BYTES).hex()
    stored = DiscardedValue(ref=ref, name=name, at=ports.clock.now())
    ports.records.commit([store.put_new(store.discarded_value_key(ref), stored)])
    ports.secrets.put(ref, value, if_absent=True)
    return stored


def referred_to(stored: DiscardedValue) -> Delete:
    """Part of the commit by which a secret comes to refer to a value that was just put. That commit conflicts if the value
    was condemned meanwhile."""
    return Delete(store.discarded_value_key(stored.ref), 1)


def no_longer_referred_to(ports: Ports, secret: Secret, *, replaced: bool) -> tuple[DiscardedValue, Put]:
    """The value that a secret will no longer refer to, and its part of the commit that makes it so."""
    old = DiscardedValue(ref=secret.value_ref, name=secret.name, at=ports.clock.now(), replaced=replaced)
    return old, store.put_new(store.discarded_value_key(old.ref), old)


def discard(ports: Ports, stored: DiscardedValue) -> None:
    """Delete a value that nothing refers to, now. What cannot be deleted is left to the reconciler."""
    try:
        ports.secrets.delete(stored.ref)
        current = store.load(ports.records, store.discarded_value_key(stored.ref), DiscardedValue)
        if current.document is not None:
            ports.records.commit([current.delete])
    except (Unavailable, Conflict) as error:
        log.warning("a discarded value of the secret %s is left to the reconciler: %s", stored.name, error)


def sweep(ports: Ports) -> Iterator[str]:
    """Delete the values that were discarded a while ago; the names of their secrets."""
    latest = ports.clock.now() - SWEPT_AFTER
    found = store.of_kind(ports.records, store.KIND_DISCARDED_VALUE, DiscardedValue)
    due = [discarded for discarded, _ in found if discarded.at <= latest]
    needed = _needed(ports.records) if any(discarded.replaced for discarded in due) else frozenset()
    for discarded in due:
        if not (discarded.replaced and discarded.ref in needed) and _delete(ports, discarded.ref):
            yield discarded.name


def _delete(ports: Ports, ref: str) -> bool:
    """Condemn a discarded value, then delete it: a secret whose record is just being committed either has it already, or
    will not get it."""
    current = store.load(ports.records, store.discarded_value_key(ref), DiscardedValue)
    if current.document is None:
        return False  # the listing was behind
    version = current.version
    try:
        if not current.document.condemned:
            ports.records.commit([store.put(current, msgspec.structs.replace(current.document, condemned=True))])
            version += 1
        ports.secrets.delete(ref)
        ports.records.commit([Delete(current.key, version)])
    except Conflict:
        log.info("a discarded value of the secret %s was dealt with meanwhile", current.document.name)
        return False
    except Unavailable as error:
        log.warning("a discarded value of the secret %s cannot be deleted now: %s", current.document.name, error)
        return False
    return True


def _needed(records: Records) -> frozenset[str]:
    """The values that runs are fixed to which wait to be launched: for want of room that may take long."""
    waiting = (one for one in all_executions.active(records) if one.state is State.STARTING)
    return frozenset(fixed.value_ref for execution in waiting for fixed in execution.fixed_secrets)


# --- the secrets of a run --------------------------------------------------------------------------------------------


def known_to(records: Records, user: User | None, names: tuple[str, ...]) -> dict[str, Secret]:
    """The secrets of these names that the user may use; if one is none, all others of theirs as well, for a hint."""
    if user is None or not names:
        return {}
    loaded = (secret.document for secret in store.load_secrets(records, names).values())
    found = {secret.name: secret for secret in loaded if secret is not None and secrets.may_use(user, secret)}
    if len(found) < len(names):
        everyones = store.of_kind(records, store.KIND_SECRET, Secret)
        # What was loaded counts: the listing may be behind.
        found = {
            secret.name: secret for secret, _ in everyones if secret.name not in names and secrets.may_use(user, secret)
        } | found
    return found


def fix(records: Records, execution: Execution, user: User) -> tuple[tuple[FixedSecret, ...], tuple[Check, ...]]:
    """What an execution that is to start gets of the secrets it named, and the Checks that they stay as they were judged.

    Raises SECRET_NOT_FOUND or INVALID_REQUEST: a secret was deleted, is shared no more, or sets another variable now.
    """
    if not execution.secrets:
        return (), ()
    stored = stored_request(records, execution.execution_id)
    loaded = store.load_secrets(records, execution.secrets)
    known = {name: secret.document for name, secret in loaded.items() if secret.document is not None}
    repo = None if stored.git is None else stored.git.repo
    fixed = secrets.fix(secrets.select(execution.secrets, user, known), stored.env, repo)
    return fixed, tuple(secret.check for secret in loaded.values())


def stored_request(records: Records, execution_id: str) -> requests.RunRequest:
    """The request of an admitted execution, as it was signed."""
    stored: Loaded[StoredRequest] = store.load(records, store.request_key(execution_id), StoredRequest)
    if stored.document is None:
        raise LookupError(f"execution {execution_id} has no stored request")
    return requests.decode(stored.document.payload)


def read(ports: Ports, execution: Execution) -> Mapping[str, bytes] | LaunchRefused:
    """The values that an execution is fixed to, by variable. One that is gone, or that could not be read for as long as a
    start may take, means that it cannot be launched."""
    values = {}
    for fixed in execution.fixed_secrets:
        try:
            value = ports.secrets.get(fixed.value_ref)
        except Unavailable as error:
            begun = execution.starting_at
            if begun is None or ports.clock.now() < begun + START_TIMEOUT:
                raise
            return LaunchRefused(f"the value of the secret {fixed.name!r} cannot be read: {error}")
        if value is None:
            return LaunchRefused(f"the secret {fixed.name!r} was deleted, or its value replaced, before the launch")
        values[fixed.env_name] = value
    return values
