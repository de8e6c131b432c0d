"""Users and their keys: roles, the limits of a key, and the bodies of the routes about them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import StrEnum

import msgspec

from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.hidden import repr_without
from runvoy_protocol.instants import Instant
from runvoy_protocol.requests import MAX_IMAGE_LENGTH, MAX_LABEL_VALUE_LENGTH, MAX_LABELS, env_name_problem, is_name

MAX_USER_NAME_LENGTH = 128
MAX_KEY_NAME_LENGTH = 128
MAX_LIMIT_ENTRIES = 64
MIN_KEY_LIFETIME_SECONDS = 60
MAX_KEY_LIFETIME_SECONDS = 3650 * 24 * 3600

MAX_QUOTA = 10_000_000

_USER_NAME = re.compile(r"[a-z0-9][a-z0-9._+-]*(?:@[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)?\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


class Role(StrEnum):
    """What a user may do; docs/access.md has the table (the agent's core.access.ALLOWED)."""

    ADMIN = "admin"
    OPERATOR = "operator"
    DEVELOPER = "developer"
    VIEWER = "viewer"


class PlaybookPin(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A playbook as it was when a key was limited to it: the digest of what it runs (requests.playbook_digest), and the
    names of the variables that it leaves to its caller."""

    name: str
    digest: str
    parameters: tuple[str, ...] = ()


class KeyLimits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a key may ask for at most; None does not limit.

    `images`: registered names, one of which a run must use. `locks`: those a run may name. `playbooks`: a run must be one of
    them, as pinned. `labels`: those a run must carry.
    """

    images: tuple[str, ...] | None = None
    locks: tuple[str, ...] | None = None
    playbooks: tuple[PlaybookPin, ...] | None = None
    labels: dict[str, str] | None = None


class CreateUser(msgspec.Struct, frozen=True, kw_only=True):
    """POST users. The answer is a ClaimTicket for the user's first key."""

    name: str
    role: Role


class Quotas(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How much of the deployment a user may take up. None is the deployment's default; in that default, None is runvoy's own.

    `max_unfinished`: executions that wait, run, or were not seen stopped. `max_running`: those of them that have a task at once.
    `max_log_mib`: how much an execution's log keeps of what its command prints, 1 at least.
    """

    max_unfinished: int | None = None
    max_running: int | None = None
    max_log_mib: int | None = None


class QuotaUse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a user takes up, and what they may: `own` quotas where they have some, else the default. A `max_running` of None is
    as many as the platform has room for; a `max_log_mib` of None comes from a deployment that is too old to tell."""

    user: str
    unfinished: int
    running: int
    max_unfinished: int
    max_running: int | None = None
    own: Quotas | None = None
    max_log_mib: int | None = None


class QuotasAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """GET quotas: the deployment's `default` as an admin set it, with its `version`; `max_unfinished` and `max_log_mib` as they
    are in force by default; and, by name, every user who was not revoked or still takes something up."""

    default: Quotas
    max_unfinished: int
    version: int
    users: tuple[QuotaUse, ...]
    max_log_mib: int | None = None


class SetQuotas(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """PUT quotas (the default; the answer is a QuotasAnswer) and PUT users/{name}/quotas (a user's own; the answer is a
    UserAnswer). All quotas are set anew. CONFLICT if the default, or the user, is not at `version` any more."""

    version: int
    quotas: Quotas = Quotas()


class RecountQuotas(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """POST quotas/recount: compare what is counted of a user, or of all, with the records. The answer is a RecountAnswer."""

    user: str | None = None


class RecountedUser(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A user whose numbers were wrong, or seem too high."""

    user: str
    unfinished: int  # as it is now
    running: int
    unfinished_added: int = 0  # to put it right; negative if it was too high
    running_added: int = 0
    # It seems too high by this: the reconciler finds out, and corrects it, within half an hour.
    unfinished_suspected: int = 0
    running_suspected: int = 0


class RecountAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Those whose numbers were wrong, or seem too high, by name; of all others nothing wrong was found."""

    users: tuple[RecountedUser, ...]


class UserAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A user. `version` rises with each change; who changes the user says which one they saw. `quotas` are their own."""

    name: str
    role: Role
    created_at: Instant
    version: int
    created_by: str = ""
    revoked_at: Instant | None = None
    quotas: Quotas | None = None


class UsersAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """GET users, by name; revoked ones included."""

    users: tuple[UserAnswer, ...]


class ChangeRole(msgspec.Struct, frozen=True, kw_only=True):
    """POST users/{name}/role; CONFLICT if the user is not at `version` any more."""

    role: Role
    version: int


class RevokeUser(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """POST users/{name}/revoke; with `stop_all` what the user has under way is killed as well."""

    version: int
    stop_all: bool = False


class RevokedAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A revoked user, and the executions that were killed with them."""

    user: UserAnswer
    killed: tuple[str, ...] = ()


class KeyTerms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a new key is to be: a name to know it by, how long it lives from its registration, and what it may do."""

    name: str = ""
    lifetime_seconds: int | None = None
    limits: KeyLimits | None = None


class CreateKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """POST keys: register a further key of the caller. `claim` is an envelope by the new key (see claims.py)."""

    claim: bytes
    terms: KeyTerms = KeyTerms()


class CreateClaim(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """POST users/{name}/claims: a claim token for a further key of that user; POST keys/claims: of the caller."""

    terms: KeyTerms = KeyTerms()


class RotateKey(msgspec.Struct, frozen=True, kw_only=True):
    """POST keys/rotate: register `claim`'s key in place of the calling one, with its name, limits and lifetime."""

    claim: bytes


class ClaimRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST claim: public; the envelope holds the token and proves possession of the key that it registers."""

    claim: bytes

    def __repr__(self) -> str:
        return repr_without(self, "claim")


class ClaimTicket(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A claim token's secret: shown once, kept nowhere. It registers one key until `expires_at`."""

    user: str
    role: Role
    secret: bytes
    expires_at: Instant

    def __repr__(self) -> str:
        return repr_without(self, "secret")


class KeyAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A key as the deployment knows it. `last_used_at` is exact to the minute. `made_by`: the key that made it, or the token it
    was registered with; empty where none did."""

    key_id: str
    user: str
    created_at: Instant
    name: str = ""
    limits: KeyLimits | None = None
    expires_at: Instant | None = None
    revoked_at: Instant | None = None
    last_used_at: Instant | None = None
    made_by: str = ""


class KeysAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """GET keys, oldest first; revoked ones included."""

    keys: tuple[KeyAnswer, ...]


class ClaimAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The key that was registered, and whose it is."""

    key: KeyAnswer
    role: Role
    deployment_id: str


def check_user_name(name: str) -> None:
    """INVALID_REQUEST unless the name is an e-mail address or a plain name, in lower case."""
    if len(name) > MAX_USER_NAME_LENGTH or not _USER_NAME.match(name):
        raise RunvoyError(
            ErrorCode.INVALID_REQUEST,
            f"{name[:140]!r} is no name for a user",
            "Give an e-mail address, or for a machine a name such as ci-deploy, in lower case.",
        )


def check_quotas(quotas: Quotas) -> None:
    """INVALID_REQUEST unless these are numbers that a quota can be."""
    numbers = (
        ("unfinished executions", quotas.max_unfinished, 0),
        ("running executions", quotas.max_running, 0),
        ("MiB of log", quotas.max_log_mib, 1),  # a log without any output would not even say why its command failed
    )
    for what, number, least in numbers:
        if number is not None and not least <= number <= MAX_QUOTA:
            raise RunvoyError(
                ErrorCode.INVALID_REQUEST, f"{number} is no quota of {what}; one is from {least} to {MAX_QUOTA:,}"
            )


def check_terms(terms: KeyTerms) -> None:
    """INVALID_REQUEST, naming every problem, unless a key can have these terms."""
    problems = []
    if len(terms.name) > MAX_KEY_NAME_LENGTH or not terms.name.isprintable():
        problems.append(f"the key's name is over {MAX_KEY_NAME_LENGTH} characters or not printable")
    lifetime = terms.lifetime_seconds
    if lifetime is not None and not MIN_KEY_LIFETIME_SECONDS <= lifetime <= MAX_KEY_LIFETIME_SECONDS:
        problems.append("a key lives for one minute to 3,650 days")
    if terms.limits is not None:
        problems += _limit_problems(terms.limits)
    if problems:
        raise RunvoyError(ErrorCode.INVALID_REQUEST, "; ".join(problems[:5]))


def _limit_problems(limits: KeyLimits) -> Iterator[str]:
    if limits == KeyLimits():
        yield "limits that limit nothing"
    pins = limits.playbooks
    named: tuple[tuple[str, Sequence[str] | None], ...] = (
        ("image", limits.images),
        ("lock", limits.locks),
        ("playbook", None if pins is None else [pin.name for pin in pins]),
    )
    for what, names in named:
        if names is None:
            continue
        if not 1 <= len(names) <= MAX_LIMIT_ENTRIES or len(set(names)) != len(names):
            yield f"a key is limited to 1 to {MAX_LIMIT_ENTRIES} different {what}s"
        yield from (f"{name[:64]!r} is no {what}'s name" for name in names if not _is_fit(what, name))
    for pin in pins or ():
        if not _DIGEST.match(pin.digest):
            yield f"the playbook {pin.name[:64]!r} is pinned by no SHA-256 in hex"
        if len(pin.parameters) > MAX_LIMIT_ENTRIES or any(env_name_problem(name) for name in pin.parameters):
            yield f"the playbook {pin.name[:64]!r} has over {MAX_LIMIT_ENTRIES} parameters, or one that is no variable's name"
    if limits.labels is not None and not 1 <= len(limits.labels) <= MAX_LABELS:
        yield f"a key is limited to 1 to {MAX_LABELS} labels"
    for name, value in (limits.labels or {}).items():
        if not is_name(name) or len(value) > MAX_LABEL_VALUE_LENGTH or not value.isprintable():
            yield f"the label {name[:64]!r} has an invalid name, or a value that is too long or not printable"


def _is_fit(what: str, name: str) -> bool:
    """Whether an image, a lock or a playbook could have this name."""
    return is_name(name) if what == "lock" else 1 <= len(name) <= MAX_IMAGE_LENGTH and name.isprintable()
