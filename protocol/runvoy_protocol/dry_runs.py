"""Trying a run request out: what would become of it, without anything being recorded but that somebody asked."""

from __future__ import annotations

import msgspec

from runvoy_protocol import costs
from runvoy_protocol.costs import Rate
from runvoy_protocol.errors import ERRORS, ErrorCode, RunvoyError
from runvoy_protocol.receipts import Resolved
from runvoy_protocol.status import LockStatus


class DryRunRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST dry-run: the canonical bytes of a run request, unsigned. The call itself is signed by the key that would sign it;
    an order that is signed would be one that somebody could carry out."""

    request: bytes


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request would be refused: as its receipt would say it, and in `rule` what the rule is."""

    code: ErrorCode
    rule: str
    message: str
    hint: str

    def error(self) -> RunvoyError:
        return RunvoyError(self.code, self.message, self.hint)


class SecretUse(msgspec.Struct, frozen=True, kw_only=True):
    """A secret that the run would get, and the variable that would hold it."""

    name: str
    env_name: str


class DryRunAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What would become of the request at this moment. Where only a held lock is in the way, what follows `refused` is there,
    too."""

    allowed: bool
    refused: Refused | None = None  # why it is not allowed
    resolved: Resolved | None = None  # what an accepting receipt would say
    secrets: tuple[SecretUse, ...] = ()
    # With the place that it would have in each queue, and who holds the lock since when.
    locks: tuple[LockStatus, ...] = ()
    waits: bool = False  # it would wait for a lock
    rate: Rate | None = None  # what an hour of it costs
    most_nanodollars: int | None = None  # what it costs if it goes on to its deadline
    is_known: bool = False  # this very request was accepted before, and would get the same receipt again


def refused(code: ErrorCode, message: str, hint: str) -> Refused:
    """A refusal with the rule that it goes by."""
    return Refused(code=code, rule=ERRORS[code].meaning, message=message, hint=hint)


def most_nanodollars(rate: Rate, timeout_seconds: int) -> int | None:
    """What a run costs that goes on to its deadline; None where the rate is not known."""
    if rate.nanodollars_per_hour is None:
        return None
    return costs.amount(rate.nanodollars_per_hour, max(costs.MIN_BILLED_SECONDS, timeout_seconds))
