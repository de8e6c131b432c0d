"""The routes about quotas, and what the users take up of them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from runvoy_agent.core import quotas
from runvoy_agent.core.access import Action
from runvoy_agent.core.model import DefaultQuotas, User
from runvoy_agent.handlers.documents import store
from runvoy_agent.handlers.documents.store import Loaded
from runvoy_agent.handlers.members import users
from runvoy_agent.handlers.quotas import counts, places, recounts
from runvoy_agent.handlers.quotas.recounts import Recounted
from runvoy_agent.handlers.routes import Call, Response, Route, answer, route
from runvoy_agent.ports import Put, Records
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.members import (
    Quotas,
    QuotasAnswer,
    QuotaUse,
    RecountAnswer,
    RecountedUser,
    RecountQuotas,
    SetQuotas,
    check_quotas,
)


def list_quotas(call: Call) -> Response:
    return answer(_all(call.ports.records, _default(call.ports.records)))


def set_default_quotas(call: Call) -> Response:
    """For who has none of their own. It holds for what is admitted and started from now on: nothing that waits or runs ends."""
    asked = call.body(SetQuotas)
    check_quotas(asked.quotas)
    call.concerns("default")
    current = _default(call.ports.records)
    if current.version != asked.version:
        raise RunvoyError(ErrorCode.CONFLICT, "the default quotas were changed since you looked")
    made = msgspec.convert(asked.quotas, DefaultQuotas, from_attributes=True)
    call.commit(store.put(current, made), call.audit("set-default-quotas", message=_words(asked.quotas)))
    return answer(_all(call.ports.records, Loaded(current.key, made, current.version + 1)), audited=True)


def set_quotas(call: Call) -> Response:
    """A user's own, in place of the default."""
    asked = call.body(SetQuotas)
    check_quotas(asked.quotas)
    current, user = users.load(call)
    users.check_version(current, user, asked.version)
    changed = msgspec.structs.replace(user, **msgspec.structs.asdict(asked.quotas))
    call.commit(store.put(current, changed), call.audit("set-quotas", message=_words(asked.quotas)))
    places.wake(call.ports, user.name)  # who sets the default has the reconciler do it
    return answer(users.shown(changed, current.version + 1), audited=True)


def recount_quotas(call: Call) -> Response:
    """Compare what is counted with the records, and put right what is wrong, as the reconciler does every ten minutes."""
    asked = call.body(RecountQuotas)
    call.concerns(asked.user or "all users")
    if asked.user is not None:
        users.find(call, asked.user)

    def audit(user: str, words: str) -> Put:
        return call.audit("recount-quotas", subject=user, message=words)

    found = recounts.recount(call.ports, audit, asked.user, call.hold)
    told = RecountAnswer(users=tuple(_recounted(one) for one in found))
    return answer(told, audited=any(one.is_corrected for one in found))


def _recounted(one: Recounted) -> RecountedUser:
    return RecountedUser(
        user=one.user,
        unfinished=one.unfinished_before + one.unfinished_added,
        running=one.running_before + one.running_added,
        unfinished_added=one.unfinished_added,
        running_added=one.running_added,
        unfinished_suspected=one.unfinished_suspected,
        running_suspected=one.running_suspected,
    )


def use_of(records: Records, members: Sequence[User], default: DefaultQuotas | None = None) -> list[QuotaUse]:
    """What these users take up, and may. `default`, if it is known."""
    keys = [key for user in members for key in (counts.unfinished_key(user.name), counts.running_key(user.name))]
    known = store.Several(records, keys if default is not None else [*keys, store.DEFAULT_QUOTAS_KEY])
    if default is None:
        default = known.document(store.DEFAULT_QUOTAS_KEY, DefaultQuotas).document
    return [_use(known, user, default) for user in members]


def _use(known: store.Several, user: User, default: DefaultQuotas | None) -> QuotaUse:
    def value(key: str) -> int:
        return counts.number_in(known, key).value

    return QuotaUse(
        user=user.name,
        unfinished=value(counts.unfinished_key(user.name)),
        running=value(counts.running_key(user.name)),
        max_unfinished=quotas.unfinished_limit(user, default),
        max_running=quotas.running_limit(user, default),
        own=users.own_quotas(user),
        max_log_mib=quotas.log_limit(user, default),
    )


def _default(records: Records) -> Loaded[DefaultQuotas]:
    return store.load(records, store.DEFAULT_QUOTAS_KEY, DefaultQuotas)


def _all(records: Records, default: Loaded[DefaultQuotas]) -> QuotasAnswer:
    members = [user for user, _ in store.of_kind(records, store.KIND_USER, User)]
    in_force = default.document or DefaultQuotas()
    used = zip(members, use_of(records, members, in_force), strict=True)
    shown = tuple(use for user, use in used if user.revoked_at is None or use.unfinished)
    return QuotasAnswer(
        default=msgspec.convert(in_force, Quotas, from_attributes=True),
        max_unfinished=quotas.default_unfinished(in_force),
        version=default.version,
        users=shown,
        max_log_mib=quotas.default_log(in_force),
    )


def _words(asked: Quotas) -> str:
    """For the audit."""
    numbers = ((asked.max_unfinished, "unfinished"), (asked.max_running, "running"), (asked.max_log_mib, "MiB of log"))
    return ", ".join(f"{what}: {'default' if number is None else number}" for number, what in numbers)


ROUTES: tuple[Route, ...] = (
    route("GET", "/quotas", Action.READ_USERS, list_quotas),
    route("PUT", "/quotas", Action.MANAGE_USERS, set_default_quotas, single_use=True),
    route("POST", "/quotas/recount", Action.MANAGE_USERS, recount_quotas, single_use=True),
    route("PUT", "/users/{name}/quotas", Action.MANAGE_USERS, set_quotas, single_use=True),
)
