"""Checking the audit on this machine: what the deployment hands out is held against hashes and signatures, and not believed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

from runvoy_cli.deployment.client import Client
from runvoy_protocol import seals
from runvoy_protocol.audit import AuditEntry
from runvoy_protocol.errors import RunvoyError
from runvoy_protocol.ids import is_execution_id, made_at
from runvoy_protocol.seals import (
    FoundRecords,
    KeptRecord,
    KeptRecords,
    Leaf,
    RecordsRequest,
    Seal,
    SealHead,
    SealsAnswer,
)

PARTS = 16
_HEADERS_PAGE = "1000"
_SEALS_PAGE = "200"


class Finding(NamedTuple):
    """Something that is not as it was sealed: `problem` in one word, of which record or seal, and what it means."""

    problem: str
    subject: str
    message: str


class DayProof(NamedTuple):
    """What was found of a day. `late` records were sealed after their minute was; `unproven` ones are not sealed yet, are older
    than the chain, or their seal is gone."""

    day: str
    records: int
    sealed: int
    late: int
    unproven: int
    seals: int
    head: SealHead
    findings: tuple[Finding, ...]

    @property
    def holds(self) -> bool:
        return not self.findings


class _Listed(NamedTuple):
    """A record as a day lists it."""

    leaf: Leaf
    entry: AuditEntry | None
    body: bytes


class DayCheck:
    """One day of the audit, checked against its seals, and these against each other and, where one is given, against a hash that
    was kept elsewhere."""

    def __init__(self, client: Client, day: datetime, kept_hash: str | None = None) -> None:
        """`day` is its first moment, in UTC."""
        self._client = client
        self._begins = seals.place(_stamp(day))
        self._ends = seals.place(_stamp(day + timedelta(days=1)))
        self._day = day.strftime("%Y-%m-%d")
        self._kept_hash = kept_hash
        self._found: list[Finding] = []
        self._gaps: list[tuple[str, str]] = []  # times whose seals are gone
        self._first_number = 1
        self._late = 0
        self._head = client.ask(SealHead, "GET", "/audit/head")

    def run(self) -> DayProof:
        """Check the day; a deployment that does not answer ends it with an error."""
        listed = self._listed()
        chain = self._chain()
        sealed, others = self._leaves(chain)
        self._compare(sealed, listed)
        self._look_up(others, "a record of another day, sealed late on this one")
        unproven = self._explain({event_id: one for event_id, one in listed.items() if event_id not in sealed}, chain)
        return DayProof(
            day=self._day,
            records=len(listed),
            sealed=len(listed) - unproven,
            late=self._late,
            unproven=unproven,
            seals=len(chain),
            head=self._head,
            findings=tuple(self._found),
        )

    def _note(self, problem: str, subject: str, message: str) -> None:
        self._found.append(Finding(problem, subject, message))

    # -- what the day lists

    def _listed(self) -> dict[str, _Listed]:
        found: dict[str, _Listed] = {}
        for part in range(PARTS):
            last = ("", "")
            for record in self._records_of(part):
                entry = _decoded(record)
                if entry is None:
                    self._note("changed", record.event_id, "its stored bytes are no record of the audit any more")
                elif entry.event_id != record.event_id:
                    self._note("changed", record.event_id, f"it says that it is {entry.event_id[:32]}")
                else:
                    here = (_stamp(entry.at), record.event_id)
                    if here < last or here[0][:10] != self._day:
                        self._note("reordered", record.event_id, f"it is of {here[0]} and does not stand there")
                    last = max(last, here)
                if record.event_id in found:
                    self._note("reordered", record.event_id, "it is listed twice")
                found[record.event_id] = _Listed(seals.leaf(record.event_id, record.body), entry, record.body)
        return found

    def _records_of(self, part: int) -> Iterator[KeptRecord]:
        after: str | None = None
        while True:
            query = {"day": self._day, "part": str(part)} | ({"after": after} if after else {})
            page = self._client.ask(KeptRecords, "GET", "/audit/records", query=query)
            yield from page.records
            after = page.after
            if after is None:
                return

    # -- the chain

    def _chain(self) -> list[Seal]:
        """The seals of the day, linked to each other, to their neighbours, and to the kept hash."""
        first = self._client.ask(SealsAnswer, "GET", "/audit/seals", query={"at": self._begins, "limit": "1"}).first
        expected = self._first_number = max(first - 1, 1)
        of_the_day: list[Seal] = []
        before: Seal | None = None
        kept_hash_found = self._kept_hash in (None, seals.GENESIS)
        for seal in self._seals_from(expected):
            self._check_link(before, seal, expected)
            kept_hash_found = kept_hash_found or seals.hash_of(seal) == self._kept_hash
            # A seal that begins on an earlier day has nothing of it: what it holds is all of the day that it ends on.
            if self._begins < seal.ends <= self._ends:
                of_the_day.append(seal)
            before, expected = seal, seal.number + 1
            if seal.ends >= self._ends and kept_hash_found:
                break
        if (before is None or before.ends < self._ends) and expected <= self._head.number:
            self._note("removed", _numbered(expected, self._head.number), "the chain does not reach its head")
            self._gaps.append((before.ends if before else "", self._ends))
        if before is not None and before.number == self._head.number and seals.hash_of(before) != self._head.hash:
            self._note("changed", f"seal {before.number}", "the head has another hash for it")
        if not kept_hash_found:
            lost = "no seal from this day on has this hash: the chain was cut off, or made anew"
            self._note("truncated", f"head {self._kept_hash}", lost)
        return of_the_day

    def _check_link(self, before: Seal | None, seal: Seal, expected: int) -> None:
        if seal.number != expected:
            self._note("removed", _numbered(expected, seal.number - 1), "the chain of seals has a gap here")
            self._gaps.append((before.ends if before else "", seal.begins))
        elif before is not None and (seal.previous, seal.begins) != (seals.hash_of(before), before.ends):
            self._note("changed", f"seal {before.number}", f"it is not the one that seal {seal.number} was made after")
        elif seal.number == 1 and seal.previous != seals.GENESIS:
            self._note("changed", "seal 1", "it is not the first of its chain")
        elif before is None and seal.number > 1 and seal.ends > self._begins:
            self._note("changed", f"seal {seal.number}", "the seals before the day do not end with it")

    def _seals_from(self, number: int) -> Iterator[Seal]:
        """Seals with their leaves while they are of the day, then without."""
        with_leaves = True
        while number <= self._head.number:
            query = {"from": str(number), "limit": _SEALS_PAGE if with_leaves else _HEADERS_PAGE}
            query |= {} if with_leaves else {"leaves": "no"}
            page = self._client.ask(SealsAnswer, "GET", "/audit/seals", query=query)
            yield from (seal for seal in page.seals if number <= seal.number <= self._head.number)
            if not page.seals:
                number += int(query["limit"])  # a gap, longer than a page
                continue
            last = page.seals[-1]
            number = last.number + 1
            with_leaves = last.ends < self._ends

    # -- records against leaves

    def _leaves(self, chain: list[Seal]) -> tuple[dict[str, Leaf], dict[str, Leaf]]:
        """The leaves of the day, and those of other days that were sealed late in its seals."""
        sealed: dict[str, Leaf] = {}
        others: dict[str, Leaf] = {}
        for seal in chain:
            for number, leaf in enumerate(self._unpacked(seal)):
                is_late = number >= seal.count
                self._late += is_late
                (others if is_late and not self._is_of_day(leaf) else sealed)[leaf.event_id] = leaf
        return sealed, others

    def _unpacked(self, seal: Seal) -> list[Leaf]:
        try:
            return seals.unpack(seal)
        except RunvoyError as error:
            self._note("changed", f"seal {seal.number}", error.message)
            self._gaps.append((seal.begins, seal.ends))
            return []

    def _is_of_day(self, leaf: Leaf) -> bool:
        return _made(leaf.event_id)[:10] == self._day

    def _compare(self, sealed: Mapping[str, Leaf], listed: Mapping[str, _Listed]) -> None:
        missing: dict[str, Leaf] = {}
        for event_id, leaf in sealed.items():
            one = listed.get(event_id)
            if one is None:
                missing[event_id] = leaf
            elif one.leaf != leaf and one.entry is not None:
                self._note("changed", event_id, f"it is not what was sealed; it says now: {_told(one.entry)}")
        self._look_up(missing, "", not_listed=True)

    def _look_up(self, leaves: Mapping[str, Leaf], what: str, *, not_listed: bool = False) -> None:
        """Records by their ids: those that the day does not list."""
        wanted = [event_id for event_id in leaves if is_execution_id(event_id)]
        for event_id in leaves.keys() - set(wanted):
            self._note("changed", event_id, "a seal has it, and it is no id of a record")
        for place in range(0, len(wanted), seals.MAX_LOOKED_UP):
            ids = wanted[place : place + seals.MAX_LOOKED_UP]
            body = msgspec.json.encode(RecordsRequest(event_ids=tuple(ids)))
            found = {
                one.event_id: one for one in self._client.ask(FoundRecords, "POST", "/audit/records", body).records
            }
            for event_id in ids:
                record = found.get(event_id)
                made = _made(event_id)
                if record is None:
                    self._note("removed", event_id, what or f"it was recorded at {made}, sealed, and is gone")
                elif seals.leaf(event_id, record.body) != leaves[event_id]:
                    entry = _decoded(record)
                    says = "" if entry is None else f"; it says now: {_told(entry)}"
                    self._note("changed", event_id, (what or "it is not what was sealed") + says)
                elif not_listed:
                    self._note("reordered", event_id, f"it was recorded at {made}, and the day does not list it there")

    def _explain(self, unsealed: Mapping[str, _Listed], chain: list[Seal]) -> int:
        """Records that no seal of the day has. A later one may have them as late; some are not old enough to be sealed, or are
        older than the chain, or their seal is gone: how many these are. All others are named."""
        left = dict(unsealed)
        if any(self._is_sealed_time(one) for one in left.values()):
            for leaf in self._late_after(chain[-1].number + 1 if chain else self._first_number):
                one = left.pop(leaf.event_id, None)
                self._late += one is not None
                if one is not None and one.leaf != leaf:
                    self._note("changed", leaf.event_id, "it is not what was sealed, late")
        unproven = 0
        for event_id, one in left.items():
            if not self._is_sealed_time(one):
                unproven += 1
            else:
                told = "" if one.entry is None else f": {_told(one.entry)}"
                self._note("added", event_id, f"its minute was sealed, and no seal has it{told}")
        return unproven

    def _is_sealed_time(self, one: _Listed) -> bool:
        if one.entry is None:
            return True
        at = _stamp(one.entry.at)
        in_a_gap = any(begins <= at <= ends for begins, ends in self._gaps)
        return self._head.began <= at < self._head.sealed_until and not in_a_gap

    def _late_after(self, number: int) -> Iterator[Leaf]:
        while number <= self._head.number:
            query = {"from": str(number), "limit": _HEADERS_PAGE, "leaves": "no"}
            page = self._client.ask(SealsAnswer, "GET", "/audit/seals", query=query).seals
            for header in page:
                if header.late and header.number <= self._head.number:
                    whole = {"from": str(header.number), "limit": "1"}
                    for seal in self._client.ask(SealsAnswer, "GET", "/audit/seals", query=whole).seals:
                        yield from self._unpacked(seal)[seal.count :]
            number = page[-1].number + 1 if page else number + int(_HEADERS_PAGE)


def _decoded(record: KeptRecord) -> AuditEntry | None:
    try:
        return msgspec.json.decode(record.body, type=AuditEntry)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _told(entry: AuditEntry) -> str:
    return " ".join(part for part in (entry.actor or "(nobody known)", entry.action, entry.outcome) if part)


def _stamp(at: datetime) -> str:
    at = at.astimezone(UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}"


def _made(event_id: str) -> str:
    """When a record was made, as its id has it."""
    at = made_at(event_id)
    return "an unknown time" if at is None else _stamp(at)


def _numbered(first: int, last: int) -> str:
    return f"seal {first}" if first >= last else f"seals {first} to {last}"
