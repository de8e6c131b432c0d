"""What the core's callers need of the world.

Each port has one contract suite (tests/contract) that runs against every implementation. Implementations may be called
from several threads at once. What is not named as an exception of an operation is `Unavailable`, or a bug.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, Protocol


class Unavailable(Exception):
    """The world failed: a full disk, a lost network, a throttled API. The operation may or may not have happened."""


class NotLaunched(Unavailable):
    """A launch failed, and for certain started nothing."""


# --- Records ---------------------------------------------------------------------------------------------------------


class Conflict(Exception):
    """A condition of a commit did not hold: somebody else wrote first. Nothing was written."""


class IndexEntry(NamedTuple):
    """Where a record stands in an index: records of a partition come back in the order of `sort`, then of their key."""

    partition: str
    sort: str


class Item(NamedTuple):
    """A record's content: a JSON document, its places in indexes by the index's name (MAX_PLACE_BYTES each at most), and when
    it may be forgotten: after `expires_at` it may be deleted at any time, or still be there."""

    body: bytes
    indexes: Mapping[str, IndexEntry] = {}
    expires_at: datetime | None = None


class Versioned(NamedTuple):
    """A stored record. `version` is 1 at its first put and rises by one at each."""

    key: str
    body: bytes
    version: int


class Put(NamedTuple):
    """Write `item` if the stored version is `version`; 0 means that no such record may exist."""

    key: str
    item: Item
    version: int


class Delete(NamedTuple):
    """Delete the record if the stored version is `version`."""

    key: str
    version: int


class Check(NamedTuple):
    """Write nothing, but let the commit fail unless `key` is still at `version` (0: absent)."""

    key: str
    version: int


class Add(NamedTuple):
    """Add `amount` to a record that is a number (0 where there is none), if the sum is not over `at_most`. No version is named,
    so of two who add at once both count. The number is the record's body, in ASCII digits; nothing but Add writes it, and each
    Add raises its version by one."""

    key: str
    amount: int
    at_most: int | None = None


Write = Put | Delete | Check | Add
MAX_COMMIT_WRITES = 100
MAX_KEY_BYTES = 2048
"""Of a record's key, and of a partition of an index. DynamoDB's limits hold everywhere, so that what breaks them fails on one
machine."""

MAX_PLACE_BYTES = 1024
"""Of a place in a partition: its sort, its record's key and a byte between them."""


class Position(NamedTuple):
    """A place in a partition: between the record of this sort and key (there or not) and the next."""

    sort: str
    key: str


class Page(NamedTuple):
    """One page of a query. `after` is where the next one begins; None on the last."""

    records: Sequence[Versioned]
    after: Position | None


class Records(Protocol):
    """Versioned documents with atomic conditional commits. A query shows every commit that is older than `index_lag`; it may show
    younger ones."""

    @property
    def index_lag(self) -> timedelta: ...

    def get(self, key: str) -> Versioned | None:
        """The record as of the last commit (a consistent read)."""
        ...

    def get_many(self, keys: Sequence[str]) -> Sequence[Versioned | None]:
        """What `get` says of each key, in their order, in fewer calls: consistent reads, but not all of one moment. A key may
        stand there twice."""
        ...

    def commit(self, writes: Sequence[Write]) -> None:
        """All of the writes or none, durable when this returns. At most 100, each key once.

        Raises Conflict if a condition does not hold; ValueError for a commit that breaks the rules above.
        """
        ...

    def query(
        self, index: str, partition: str, *, after: Position | None = None, limit: int = 100, descending: bool = False
    ) -> Page:
        """The records of a partition in order. May be stale: callers overlap their windows."""
        ...


# --- Objects ---------------------------------------------------------------------------------------------------------


class PreconditionFailed(Exception):
    """A conditional put found the object there already, or another than expected."""


class StoredObject(NamedTuple):
    """An object's content. `etag` changes when the content does; `version` names this content in a versioned bucket."""

    data: bytes
    etag: str
    version: str


class ObjectInfo(NamedTuple):
    """`modified_at` is when the object was written, by the store's clock."""

    key: str
    size: int
    modified_at: datetime


class PostPolicy(NamedTuple):
    """A presigned upload: one multipart form POST to `url` with `fields` before the file."""

    url: str
    fields: dict[str, str]


class Objects(Protocol):
    """One bucket. Object keys are relative paths of plain segments; anything else is a ValueError."""

    def put(
        self,
        object_key: str,
        data: bytes,
        *,
        content_type: str,
        if_absent: bool = False,
        if_match: str | None = None,
    ) -> str:
        """Store an object, durable and whole when this returns; the new etag. Raises PreconditionFailed with `if_absent` when it
        exists, with `if_match` when its etag is another (or it is gone)."""
        ...

    def get(self, object_key: str, version: str | None = None) -> StoredObject | None:
        """The object, or that version of it; None if there is none."""
        ...

    def list(
        self, prefix: str, *, after: str | None = None, up_to: str | None = None, limit: int = 1000
    ) -> Sequence[ObjectInfo]:
        """The first `limit` objects whose key begins with `prefix`, in the order of their keys: only those after `after` and
        not after `up_to`. On S3 a call costs by what it returns, on a folder by all that is in it: there a few large pages are
        best."""
        ...

    def delete(self, object_key: str) -> None:
        """Remove an object; removing what is not there is no error."""
        ...

    def presign_post(self, key_prefix: str, *, content_type: str, max_bytes: int, expires_at: datetime) -> PostPolicy:
        """A policy that lets its bearer upload under `key_prefix` only: 1 to `max_bytes` bytes of `content_type`."""
        ...

    def presign_get(self, object_key: str, *, expires_at: datetime) -> str:
        """A URL that reads one object, whether it exists yet or not."""
        ...

    def presign_gets(self, object_keys: Sequence[str], *, expires_at: datetime) -> Sequence[str]:
        """The same for many, in their order: where signing costs a call, fewer than one each."""
        ...


# --- Queue -----------------------------------------------------------------------------------------------------------

QueueName = Literal["inbox", "starts", "bulk", "ends"]


class Message(NamedTuple):
    """A delivery: `receives` counts how often this message was received, this time included."""

    message_id: str
    body: bytes
    receives: int


class Queue(Protocol):
    """Sending to the four queues. Deliveries may repeat, come late and out of order. Receiving, acknowledging and dead letters
    belong to the runtime (the embedded worker, or Lambda's event source)."""

    def send(self, queue: QueueName, body: bytes, *, delay_seconds: float = 0) -> None:
        """Durable when this returns; delivered at least once, not before the delay."""
        ...


class QueueState(NamedTuple):
    """Messages of one queue: due now, due later, delivered and not yet acknowledged, given up. `oldest_seconds` is how long the
    oldest that is due has been; None where none is, or where the platform does not tell. Counts may be approximate."""

    name: str
    visible: int
    delayed: int
    in_flight: int
    dead: int
    oldest_seconds: float | None = None


class QueueCare(Protocol):
    """Looking at the queues, and giving dead letters another try."""

    def states(self) -> Sequence[QueueState]: ...

    def redrive(self, queue: str, most: int) -> int:
        """Make up to `most` dead letters of a queue due again, as if they were new; how many. If it dies on the way, one of
        them may be delivered twice; none is lost. ValueError for a queue that does not exist."""
        ...


# --- Launcher --------------------------------------------------------------------------------------------------------


class Launch(NamedTuple):
    """All that starts one attempt. Fixed before the first try: the same attempt is never launched with other values.

    `payload` is what the runner receives (see docs/protocol.md); it may hold secrets and is never kept in a record.
    `platform` is an image's, such as linux/arm64; None is the launcher's own. `task_role` is what the command may act as.
    """

    execution_id: str
    attempt: int
    isolation: Literal["process", "container"]
    image: str | None
    cpu: int | None
    memory_mib: int | None
    payload: bytes
    platform: str | None = None
    task_role: str | None = None

    def __repr__(self) -> str:
        return f"Launch({self.execution_id}, attempt {self.attempt}, {self.isolation}, {self.image})"


Attempt = tuple[str, int]
"""An execution's id, and the number of one of its launches."""


class Launched(NamedTuple):
    """The attempt's task exists; it may have existed before (adopted). `task_ref` is what the platform calls it: the same task, the
    same name. The port itself names tasks by execution and attempt."""

    task_ref: str


class NoCapacity(NamedTuple):
    """Nothing was started; the platform has no room now."""

    message: str


class LaunchRefused(NamedTuple):
    """Nothing was started, and trying again will not help."""

    message: str


LaunchOutcome = Launched | NoCapacity | LaunchRefused


class TaskState(NamedTuple):
    """What the platform knows of an attempt's task.

    A task is `stopped` once no process of it lives any more, and `missing` where the platform knows none: it was never claimed,
    or was forgotten.
    """

    phase: Literal["running", "stopped", "missing"]
    exit_code: int | None = None  # the command's, where the platform reports it
    message: str = ""
    supervised: bool = False  # its runner lives and enforces its deadline by its own clock: nobody else has to
    never_began: bool = False  # it stopped, and for certain the command was not started
    pull_started_at: datetime | None = None  # with stopped_at: the time that the platform charges for, if it tells
    stopped_at: datetime | None = None
    stopping: bool = False  # it was told to end
    no_room: bool = False  # nothing of it was started, for want of room that there may be later


class Launcher(Protocol):
    """Starts tasks, at most one per (execution, attempt). Within `relaunch_window` after its first try a launch may be repeated
    without ever starting a second task; None where that holds for ever."""

    @property
    def relaunch_window(self) -> timedelta | None: ...

    def start(self, launch: Launch) -> LaunchOutcome:
        """Start the attempt's task, or adopt the one that exists. Safe to repeat with the same values. Raises NotLaunched where
        nothing was started for certain; after any other failure it may have been."""
        ...

    def stop(self, execution_id: str, attempt: int) -> None:
        """Ask the task to end: the runner does the steps of a deadline. Repeating it, or stopping what is gone, is no error."""
        ...

    def describe(self, execution_id: str, attempt: int) -> TaskState:
        """What became of the task. Never starts anything."""
        ...

    def survey(self, attempts: Sequence[Attempt]) -> Mapping[Attempt, TaskState]:
        """What `describe` says of many, in as few calls as possible. An attempt that is missing in the answer (a call failed,
        or the platform did not list it) may have a task all the same: ask `describe`."""
        ...


class TaskDefinitions(Protocol):
    """What a platform has to know of an image before it can start tasks of it. A `platform` of None is the deployment's own. Both
    operations may be repeated."""

    def register(self, reference: str, platform: str | None) -> None:
        """Have the platform know the image, as this version of runvoy starts tasks; INVALID_REQUEST if it will not."""
        ...

    def deregister(self, reference: str, platform: str | None) -> None:
        """No new task of it can be started from here on; those that run go on."""
        ...


# --- Secrets, Clock --------------------------------------------------------------------------------------------------


class Secrets(Protocol):
    """Values by name, encrypted at rest. Values are bytes."""

    def put(self, name: str, value: bytes, *, if_absent: bool = False) -> None:
        """Store a value; PreconditionFailed with `if_absent` when the name is taken."""
        ...

    def get(self, name: str) -> bytes | None: ...

    def delete(self, name: str) -> None:
        """Remove a value; removing what is not there is no error."""
        ...


class Clock(Protocol):
    """Time and randomness, the two things the core must be told."""

    def now(self) -> datetime:
        """The time, aware UTC, to the millisecond."""
        ...

    def new_id(self) -> str:
        """A new UUIDv7 as 32 hex digits."""
        ...

    def random(self, count: int) -> bytes:
        """`count` bytes no one can guess."""
        ...

    def sleep(self, seconds: float) -> None: ...


class Ports(NamedTuple):
    """Everything a handler may touch."""

    records: Records
    inbox: Objects
    outbox: Objects
    queue: Queue
    launcher: Launcher
    secrets: Secrets
    clock: Clock


_MAX_VERSION = 2**62


def may_be_key(text: str) -> bool:
    """Whether a record's key, or a partition of an index, is short enough. Nothing is ever stored under a longer one. Reading
    one is no mistake, since names in calls are a stranger's choice: there is just nothing."""
    return len(text.encode()) <= MAX_KEY_BYTES


def check_writes(writes: Sequence[Write]) -> None:
    """The rules of a commit: ValueError for one that breaks them, before anything of it is tried."""
    if len(writes) > MAX_COMMIT_WRITES:
        raise ValueError(f"a commit has at most {MAX_COMMIT_WRITES} writes, not {len(writes)}")
    if len({write.key for write in writes}) < len(writes):
        raise ValueError("a commit names each key once")
    for write in writes:
        if not isinstance(write, Add) and not 0 <= write.version < _MAX_VERSION:
            raise ValueError(f"{write.version} is no version")
        if not may_be_key(write.key):
            raise ValueError(f"a record's key has at most {MAX_KEY_BYTES:,} bytes")
        if isinstance(write, Put):
            _check_item(write.key, write.item)


def _check_item(key: str, item: Item) -> None:
    if item.expires_at is not None and item.expires_at.tzinfo is None:
        raise ValueError("expires_at needs a time zone")
    for partition, sort in item.indexes.values():
        if not may_be_key(partition) or len(f"{sort} {key}".encode()) > MAX_PLACE_BYTES:
            raise ValueError(
                f"a partition has at most {MAX_KEY_BYTES:,} bytes, a place in it (sort and key) {MAX_PLACE_BYTES:,}"
            )
