"""The routes about users. Whoever changes one says which version of it they saw, so that of two at once one is told."""

from __future__ import annotations

import msgspec

from runvoy_agent.core.access import Action
from runvoy_agent.core.model import StopAll, User
from runvoy_agent.handlers.documents import all_executions, store
from runvoy_agent.handlers.documents.store import Loaded
from runvoy_agent.handlers.executions import kills
from runvoy_agent.handlers.members import admins, claims
from runvoy_agent.handlers.routes import Call, Response, Route, answer, route
from runvoy_agent.ports import Put
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.members import (
    ChangeRole,
    CreateClaim,
    CreateUser,
    KeyTerms,
    Quotas,
    RevokedAnswer,
    RevokeUser,
    Role,
    UserAnswer,
    UsersAnswer,
    check_terms,
    check_user_name,
)


def list_users(call: Call) -> Response:
    found = store.of_kind(call.ports.records, store.KIND_USER, User)
    return answer(UsersAnswer(users=tuple(shown(user, version) for user, version in found)))


def show_user(call: Call) -> Response:
    current, user = load(call)
    return answer(shown(user, current.version))


def create_user(call: Call) -> Response:
    """A new user, or a revoked one come back, and the claim token of their key. Keys of an earlier life stay worthless, and the
    user's quotas as they were: what is left of that life counts, too."""
    asked = call.body(CreateUser)
    check_user_name(asked.name)
    call.concerns(asked.name)
    current = store.load(call.ports.records, store.user_key(asked.name), User)
    earlier = current.document
    if earlier is None:
        now = call.ports.clock.now()
        user = User(name=asked.name, role=asked.role, created_at=now, created_by=call.user.name)
    elif earlier.revoked_at is not None:
        user = msgspec.structs.replace(
            earlier,
            role=asked.role,
            created_by=call.user.name,
            revoked_at=None,
            life=earlier.life + 1,
            lives_ended_at=(*earlier.lives_ended_at, earlier.revoked_at),
        )
    else:
        raise RunvoyError(
            ErrorCode.CONFLICT,
            f"the user {asked.name} exists",
            f"For a further key: `runvoy keys create --user {asked.name}`. For another role: `runvoy users role`.",
        )
    ticket, write = claims.issue(call, user, KeyTerms())
    call.commit(store.put(current, user), write, call.audit("create-user", message=f"as {user.role.value}"))
    return answer(ticket, audited=True)


def change_role(call: Call) -> Response:
    asked = call.body(ChangeRole)
    current, user = load(call)
    check_version(current, user, asked.version)
    _check_active(user)
    if user.role is asked.role:
        return answer(shown(user, current.version))
    checks = admins.another(call, but_user=user.name) if user.role is Role.ADMIN else ()
    changed = msgspec.structs.replace(user, role=asked.role)
    message = f"from {user.role.value} to {asked.role.value}"
    call.commit(store.put(current, changed), *checks, call.audit("change-role", message=message))
    return answer(shown(changed, current.version + 1), audited=True)


def revoke_user(call: Call) -> Response:
    """From this commit on nothing of theirs is admitted or started. What runs goes on, unless it is to be stopped too: at once what
    indexes show, and in the next minutes what they come to show."""
    asked = call.body(RevokeUser)
    current, user = load(call)
    is_new = user.revoked_at is None
    rest = (_wish_to_stop_all(call, user),) if asked.stop_all else ()
    if is_new:
        check_version(current, user, asked.version)
        checks = admins.another(call, but_user=user.name) if user.role is Role.ADMIN else ()
        user = msgspec.structs.replace(user, revoked_at=call.ports.clock.now())
        call.commit(store.put(current, user), *checks, *rest, call.audit("revoke-user"))
        current = Loaded(current.key, user, current.version + 1)
        # Who revoked themselves stops their own, too: the rest of the call is held to what it just wrote.
        call = call._replace(checks=tuple(current.check if one.key == current.key else one for one in call.checks))
    elif rest:
        call.commit(*rest)
    killed = _kill_all(call, user.name) if asked.stop_all else ()
    return answer(RevokedAnswer(user=shown(user, current.version), killed=killed), audited=is_new)


def _wish_to_stop_all(call: Call, user: User) -> Put:
    """For the reconciler, which kills what no index shows yet."""
    earlier = store.load(call.ports.records, store.stop_all_key(user.name), StopAll)
    return store.put(earlier, StopAll(user=user.name, by=call.user.name, at=call.ports.clock.now(), life=user.life))


def create_claim(call: Call) -> Response:
    """A claim token for a further key of a user, with terms the user cannot change."""
    asked = call.body(CreateClaim)
    check_terms(asked.terms)
    current, user = load(call)
    _check_active(user)
    ticket, write = claims.issue(call, user, asked.terms)
    call.commit(current.check, write, call.audit("create-claim", message=asked.terms.name))
    return answer(ticket, audited=True)


def load(call: Call) -> tuple[Loaded[User], User]:
    """The user that the path names; NOT_FOUND if there is none."""
    return find(call, call.groups["name"])


def find(call: Call, name: str) -> tuple[Loaded[User], User]:
    """A user by name, revoked or not; NOT_FOUND if there is none."""
    current = store.load(call.ports.records, store.user_key(name), User)
    if current.document is None:
        raise RunvoyError(ErrorCode.NOT_FOUND, f"there is no user {name[:128]!r}", "See `runvoy users list`.")
    return current, current.document


def check_version(current: Loaded[User], user: User, seen: int) -> None:
    """CONFLICT unless the user is at the version that the caller saw."""
    if current.version != seen:
        raise RunvoyError(ErrorCode.CONFLICT, f"the user {user.name} was changed since you looked")


def _check_active(user: User) -> None:
    if user.revoked_at is not None:
        raise RunvoyError(
            ErrorCode.CONFLICT, f"the user {user.name} was revoked", "`runvoy users create` reinstates them."
        )


def _kill_all(call: Call, owner: str) -> tuple[str, ...]:
    killed = []
    for execution in all_executions.active(call.ports.records):
        if execution.owner == owner and kills.kill(call, execution.execution_id):
            killed.append(execution.execution_id)
    return tuple(killed)


def own_quotas(user: User) -> Quotas | None:
    found = msgspec.convert(user, Quotas, from_attributes=True)
    return None if found == Quotas() else found


def shown(user: User, version: int) -> UserAnswer:
    return UserAnswer(
        name=user.name,
        role=user.role,
        created_at=user.created_at,
        version=version,
        created_by=user.created_by,
        revoked_at=user.revoked_at,
        quotas=own_quotas(user),
    )


ROUTES: tuple[Route, ...] = (
    route("GET", "/users", Action.READ_USERS, list_users),
    route("POST", "/users", Action.MANAGE_USERS, create_user, single_use=True),
    route("GET", "/users/{name}", Action.READ_USERS, show_user),
    route("POST", "/users/{name}/role", Action.MANAGE_USERS, change_role, single_use=True),
    route("POST", "/users/{name}/revoke", Action.MANAGE_USERS, revoke_user, single_use=True),
    route("POST", "/users/{name}/claims", Action.MANAGE_USERS, create_claim, single_use=True),
)
