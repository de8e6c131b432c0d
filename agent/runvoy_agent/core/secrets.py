"""Secrets: who may use, see and change one, and which variables a run gets from those it names."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches

from runvoy_agent.core.access import ALLOWED, Action
from runvoy_agent.core.model import FixedSecret, Secret, User
from runvoy_protocol import git_sources
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.secret_messages import EVERYONE


def may_use(user: User, secret: Secret) -> bool:
    """Whether the user's runs get the secret, and the user may know of it. What their role may run at all, and what a key
    of theirs is limited to, is judged elsewhere."""
    return may_change(user, secret) or user.name in secret.shared_with or EVERYONE in secret.shared_with


def may_change(user: User, secret: Secret) -> bool:
    """Whether the user may read its value and change or delete it: to be shared with is not enough."""
    return secret.owner == user.name or Action.ANY_SECRETS in ALLOWED[user.role]


def select(names: Sequence[str], user: User, known: Mapping[str, Secret]) -> tuple[Secret, ...]:
    """The named secrets; SECRET_NOT_FOUND if the user may not use one of them, in the same words as if it did not exist.

    `known` are the secrets by name that were looked up; a near one of the user's is given as a hint.
    """
    usable = {name: secret for name, secret in known.items() if may_use(user, secret)}
    missing = [name for name in names if name not in usable]
    if missing:
        raise not_found(missing, user, usable)
    return tuple(usable[name] for name in names)


def not_found(names: Sequence[str], user: User, usable: Collection[str]) -> RunvoyError:
    """The error for names that stand for no secret, or for none that the user may use."""
    listed = ", ".join(repr(name[:128]) for name in names[:5])
    near = get_close_matches(names[0], usable, n=1)
    hint = f"Did you mean {near[0]!r}? See `runvoy secrets list`." if near else ""
    return RunvoyError(ErrorCode.SECRET_NOT_FOUND, f"there is no secret {listed} that {user.name} may use", hint)


def fix(secrets: Sequence[Secret], env: Collection[str], repo: str | None = None) -> tuple[FixedSecret, ...]:
    """What a run gets of these secrets, as they are now; INVALID_REQUEST, naming both, where two set one variable, and where one
    is for a clone that the request does not ask for.

    `env` are the variables that the request sets itself, `repo` is the repository it names.
    """
    for secret in secrets:
        if problem := git_sources.credential_problem(secret.env_name, repo):
            raise RunvoyError(
                ErrorCode.INVALID_REQUEST,
                f"the secret {secret.name!r} {problem}",
                "Leave it out, or name the repository as `git_repo`: https:// goes with a token, git@… with a key.",
            )
    owners: dict[str, str] = {}
    problems = []
    for secret in secrets:
        other = owners.setdefault(secret.env_name, secret.name)
        if other != secret.name:
            problems.append(f"the secrets {other!r} and {secret.name!r} both set the variable {secret.env_name}")
        elif secret.env_name in env:
            problems.append(
                f"the secret {secret.name!r} and the request itself both set the variable {secret.env_name}"
            )
    if problems:
        raise RunvoyError(
            ErrorCode.INVALID_REQUEST,
            "; ".join(problems[:5]),
            "Leave a name out of `secrets`, or what else sets the variable: `env`, a file of variables, RUNVOY_USER_…",
        )
    return tuple(FixedSecret(secret.name, secret.env_name, secret.value_ref) for secret in secrets)
