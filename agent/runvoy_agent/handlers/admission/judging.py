"""Verifying and judging a run request: what admission must know is loaded and the core decides. Nothing is written here, so that
a request that is only tried out is judged by the very same steps as one that is meant."""

from __future__ import annotations

from typing import NamedTuple

from runvoy_agent.core import admission, locks, retention
from runvoy_agent.core.admission import Decision, Facts
from runvoy_agent.core.model import DefaultQuotas, Execution, Key, LockRecord, User
from runvoy_agent.handlers.deployment import Deployment
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.documents.store import Loaded
from runvoy_agent.handlers.quotas import counts
from runvoy_agent.handlers.quotas.counts import Number
from runvoy_agent.handlers.resources import registered, secret_values
from runvoy_agent.handlers.resources.registered import Images
from runvoy_agent.ports import Ports
from runvoy_protocol import envelope, object_keys, requests
from runvoy_protocol.envelope import PayloadType
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.object_keys import RequestKey
from runvoy_protocol.requests import RunRequest


class Judged(NamedTuple):
    """A decision, the facts it was made on, and what was loaded for them, for a commit to be held to."""

    decision: Decision
    facts: Facts
    user: Loaded[User]
    existing: Loaded[Execution]
    unfinished: Number
    locks: dict[str, Loaded[LockRecord]]
    images: Images


def verified_request(raw: bytes, place: RequestKey, key: Key | None) -> RunRequest:
    """The request of an inbox object, if the key of its place signed it; the error that it is refused with otherwise."""
    sealed = envelope.parse(raw, PayloadType.RUN_REQUEST)
    if key is None:
        raise RunvoyError(ErrorCode.KEY_UNKNOWN, f"no key {place.key_id} is registered in this deployment")
    request = requests.decode(envelope.verified_payload(sealed, place.key_id, key.public_key))
    if request.request_id != place.request_id:
        raise RunvoyError(ErrorCode.SIGNATURE_INVALID, "the object's name is not the id that was signed")
    return request


def judge(
    ports: Ports,
    deployment: Deployment,
    request: RunRequest,
    key_id: str,
    key: Loaded[Key],
    object_sha256: str,
    *,
    object_version: str = "",
    batch_id: str | None = None,
) -> Judged:
    """Decide on a request that the key `key_id` vouches for. `object_sha256` and `object_version` are those of the object
    that it came in, `batch_id` is that of the batch, if it came in one."""
    execution_key = store.execution_key(request.request_id)
    user_name = key.document.user if key.document else ""
    user_key, unfinished_key = store.user_key(user_name), counts.unfinished_key(user_name)
    lock_keys = {name: store.lock_key(name) for name in request.locks}
    keys = [execution_key, user_key, unfinished_key, store.DEFAULT_QUOTAS_KEY, *lock_keys.values()]
    known = store.Several(ports.records, keys)
    existing, user = known.document(execution_key, Execution), known.document(user_key, User)
    unfinished = counts.number_in(known, unfinished_key)
    named = {name: known.document(lock_key, LockRecord) for name, lock_key in lock_keys.items()}
    images = registered.for_request(ports.records, request)
    facts = Facts(
        deployment_id=deployment.deployment_id,
        capabilities=deployment.capabilities_for(request, images.facts.default is not None),
        now=ports.clock.now(),
        object_sha256=object_sha256,
        key=key.document,
        user=user.document,
        existing=existing.document,
        locks={name: lock.document or locks.empty(name) for name, lock in named.items()},
        images=images.facts,
        secrets=secret_values.known_to(ports.records, user.document, request.secrets),
        bulk=batch_id is not None,
        batch_id=batch_id,
        object_version=object_version,
        pricing=deployment.pricing,
        unfinished=unfinished.value,
        unfinished_version=unfinished.version,
        default_quotas=known.document(store.DEFAULT_QUOTAS_KEY, DefaultQuotas).document,
        has_remains=existing.document is None and _has_remains(ports, request.request_id),
    )
    return Judged(admission.admit(request, key_id, facts), facts, user, existing, unfinished, named, images)


def _has_remains(ports: Ports, execution_id: str) -> bool:
    """Whether there are objects of an execution that has no record: its record is forgotten sooner than they, where buckets have
    rules of their own. Looked for only where it may be."""
    if retention.is_known_for_sure(execution_id, ports.clock.now()):
        return False
    return bool(ports.outbox.list(object_keys.execution_prefix(execution_id), limit=1))
