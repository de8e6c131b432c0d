"""Targets of the client: its configuration, its cache, what a deployment answers, and what goes to a terminal."""

from __future__ import annotations

import atexit
import functools
import gzip
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from tests.fuzz.mutators import AT, JSON, MSGPACK, TEXT, YAML, as_bytes
from tests.fuzz.targets import ACCEPTED, ENDED, FULL, ID, KEY, RECORDS, REFUSED, SHOWN, Target, coded

from runvoy_cli.deployment import short_ids
from runvoy_cli.deployment.client import Client
from runvoy_cli.deployment.target import Target as Deployment
from runvoy_cli.following.follow import Follower
from runvoy_cli.following.output import Lines
from runvoy_cli.home import config, config_file
from runvoy_cli.home.cache import Cache
from runvoy_cli.http.transport import Answer, Transport
from runvoy_cli.input import values, yaml_nodes
from runvoy_cli.input.problems import UsageProblem
from runvoy_cli.playbooks import compiling, finding, reader, view
from runvoy_cli.submission import signed_view
from runvoy_cli.terminal import render
from runvoy_cli.terminal.sanitize import Sanitizer, one_line
from runvoy_protocol import control, requests, status
from runvoy_protocol import playbooks as compiled
from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.logs import LogRecord
from runvoy_protocol.receipts import Receipt
from runvoy_protocol.signed_requests import SignedRequestAnswer, to_signed_request
from runvoy_protocol.status import ExecutionStatus
from runvoy_sync import request_file

M = TypeVar("M", bound=msgspec.Struct)


@functools.cache
def folder() -> Path:
    made = Path(tempfile.mkdtemp(prefix="fuzz"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


# --- config.yaml ------------------------------------------------------------------------------------------------------


def run_config(raw: bytes) -> str:
    path = folder() / config.CONFIG_NAME
    path.write_bytes(raw)
    path.chmod(0o600)
    environ = {config.HOME_VARIABLE: str(folder())}
    try:
        found = config_file.load(path)
        for profile in (None, *found.profiles):
            try:
                config.resolve(profile, lambda _: None, environ)
            except UsageProblem as problem:
                assert KEY.to_api_key()[8:40] not in f"{problem} {problem.hint}", "a key is shown"
    except UsageProblem as problem:
        assert KEY.to_api_key()[8:40] not in f"{problem} {problem.hint}", "a key is shown"
        return "refused"
    config_file.save(path, None, {})
    assert config_file.load(path) == found
    return "decoded"


CONFIG = {
    "endpoint": "https://runvoy.example.com:8443",
    "deployment_id": "dep",
    "api_key": KEY.to_api_key(),
    "web_url": "https://w.example",
    "timeout": "1h30m",
    "profiles": {
        "ci": {"endpoint": "https://e.example", "deployment_id": "d", "api_key": KEY.to_api_key(), "timeout": 600}
    },
}


# --- playbooks --------------------------------------------------------------------------------------------------------


def run_playbook(raw: bytes) -> str:
    """What a project's file makes of a request, if it makes one: the same each time, and one that can be pinned."""
    path = folder() / "book.yml"
    path.write_bytes(raw)
    try:
        found = finding.Found("book", path, "project").load()
    except UsageProblem as problem:
        assert problem.message
        return "refused"
    list(view.lines(found))
    pin = compiling.pin(found)
    assert pin == compiling.pin(reader.read("book", path, yaml_nodes.read_text(path)))
    template = compiling.to_request(found, dict.fromkeys(found.parameters, "$(x)"))
    assert requests.playbook_digest(template, pin.parameters) == pin.digest, "the digest depends on values"
    assert "${{" not in template.command or "printf" in template.command
    try:  # what the client compiles, the deployment takes
        compiled.check([compiling.compiled(found, "host:~/x")])
    except RunvoyError as error:
        assert error.code is ErrorCode.TOO_LARGE, error
    return "decoded"


PLAYBOOK = {
    "description": "A book",
    "image": "alpine",
    "commands": [
        'echo ${{ word }} "$((${{ count }} + 1))"',
        ["printf", "%s", "${{ word }}"],
        "cat <<E\n$PARAM_WORD\nE\n",
    ],
    "env": {"A": "1", "B": "<${{ word }}>"},
    "secrets": ["s"],
    "locks": ["l"],
    "timeout": "1h30m",
    "cpu": 0.5,
    "memory": "2g",
    "git_repo": "https://r.example/r",
    "git_ref": "main",
    "git_path": "p",
    "labels": {"a": "${{ word }}"},
    "parameters": {
        "word": {"pattern": "[a-z]+(-[0-9]{1,3})*", "description": "A word"},
        "stage": {"enum": ["a", "b"], "default": "a"},
        "count": {"type": "int", "default": 3},
        "sure": {"type": "bool", "required": False},
        "token": {"secret": True},
    },
}


# --- values of the command line ---------------------------------------------------------------------------------------


def run_values(raw: bytes) -> str:
    """All that is read from one argument, environment variable or line; at least one of the readers refuses it."""
    text = raw.decode(errors="surrogateescape")
    answers = 0
    readers: list[Any] = [values.duration, values.memory_mib, values.cpu_units, values.execution_id, short_ids.read]
    readers += [
        lambda text: values.moment(text, AT),
        lambda text: values.chosen_id(text, KEY),
        lambda text: values.pairs("--env", [text]),
        lambda text: values.words([text]),
        lambda text: values.user_environment({values.USER_ENV_PREFIX + "A": text}),
        lambda text: config.endpoint(text, "RUNVOY_ENDPOINT"),
    ]
    for read in readers:
        try:
            read(text)
            answers += 1
        except UsageProblem:
            continue
    path = folder() / "env"
    path.write_bytes(raw)
    try:
        values.env_file(path)
    except UsageProblem:
        return f"{answers} of {len(readers)}"
    return f"{answers} of {len(readers)}, and a file"


VALUES = (
    b"1h30m",
    b"600",
    b"512m",
    b"1.5g",
    b"0.5",
    ID.encode(),
    b"A=1",
    b"2026-02-03T04:05:06Z",
    b"https://h:1/",
    b'export A="1"\nB=2',
)


# --- the cache --------------------------------------------------------------------------------------------------------


def run_cache(raw: bytes) -> str:
    """A broken cache costs a request; it never fails."""
    cache = Cache(folder(), "https://e.example", KEY.key_id)
    path = next((folder() / "cache").glob("*.json"), None)
    if path is None:
        cache.inbox_grant = None
        path = next((folder() / "cache").glob("*.json"))
    path.write_bytes(raw)
    cache = Cache(folder(), "https://e.example", KEY.key_id)
    now = cache.now()
    assert now.tzinfo is not None
    grant = cache.inbox_grant
    return "none" if grant is None else "decoded"


def _cached() -> bytes:
    grant = control.InboxGrant(
        url="https://inbox.example.com/",
        fields={"policy": "e30="},
        key_prefix="requests/x/",
        content_type="a/b",
        max_bytes=8,
        expires_at=datetime.now(UTC) + timedelta(days=3650),
    )
    return msgspec.json.encode(
        {"inbox_grant": grant, "offset_seconds": 1.5, "offset_learned_at": datetime.now(UTC) + timedelta(minutes=50)}
    )


# --- what a deployment answers ----------------------------------------------------------------------------------------


class Scripted(Transport):
    """Answers every request from the tree: by the kind of what is asked for."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        super().__init__()
        self._tree = tree
        self._asked = 0

    def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout: float,
        connect_timeout: float = 10.0,
    ) -> Answer:
        self._asked += 1
        if self._asked > 60:
            return Answer(404, {}, b"")
        if method == "POST":
            return self._answer("grant")
        if "chunk" in url:
            lines = self._tree.get("chunk")
            return Answer(200, {}, gzip.compress(lines_of(lines), 1))
        return self._answer("status" if "status" in url else "receipt")

    def _answer(self, name: str) -> Answer:
        value = self._tree.get(name)
        code = self._tree.get(f"{name}_code", 200)
        return Answer(code if isinstance(code, int) else 200, {}, json_or_text(value))


def lines_of(lines: Any) -> bytes:
    return b"".join(json_or_text(line) + b"\n" for line in (lines if isinstance(lines, list) else [lines]))


def json_or_text(value: Any) -> bytes:
    return json.dumps(value).encode() if isinstance(value, dict | list) else as_bytes(value)


def _client(tree: Mapping[str, Any]) -> Client:
    deployment = Deployment("https://e.example", "dep", KEY)
    return Client(deployment, lambda _: Cache(folder(), "https://other.example", KEY.key_id), Scripted(tree), 1.0)


def run_parsed(kind: type[M], content_type: str = "application/json") -> Any:
    def run(raw: bytes) -> str:
        message = _client({}).parse(raw, kind, content_type)
        again = msgspec.json.encode(message)
        assert _client({}).parse(again, kind) == message
        if isinstance(message, ExecutionStatus):
            _show(message)
        if isinstance(message, Receipt):
            message.error()
        if isinstance(message, SignedRequestAnswer):
            assert not [line for line in signed_view.lines(message) if "\x1b" in line]
        return "decoded"

    return coded(run)


def _show(shown: ExecutionStatus) -> None:
    """What `status`, `list` and `wait` make of a status."""
    assert 0 <= status.exit_code_of(shown) <= 255
    status.decided_by(shown)
    render.ran_for(shown, AT)
    render.moment(shown.ended_at)
    render.moment(shown.admitted_at)
    render.age(shown.admitted_at)
    one_line(render.command_text(shown.command))


def run_follow(raw: bytes) -> str:
    """Status, chunks and receipt through the client as `logs` reads them."""
    try:
        tree = json.loads(raw)
    except (ValueError, RecursionError):
        return "none"
    if not isinstance(tree, dict):
        return "none"
    lines = Lines()
    shown: list[bytes] = []

    def on_record(record: LogRecord) -> None:
        shown.extend(line.data for line in lines.feed(record))
        datetime.fromtimestamp(record.t / 1000, UTC)

    follower = Follower(_client(tree), ID, sleep=lambda _: None)
    found = follower.read_now(on_record)
    assert all(isinstance(line.data, bytes) for line in lines.rest())
    if found is not None:
        _show(found)
    return f"decoded {len(shown) > 0}"


GRANT = control.OutboxGrant(
    state="admitted",
    expires_at=AT,
    receipt_url="https://o.example/receipt",
    status_url="https://o.example/status",
    chunk_urls=("https://o.example/chunk1", "https://o.example/chunk2"),
)
SIGNED = SignedRequestAnswer(
    execution_id=ID, state="admitted", key_id=KEY.key_id, request=to_signed_request(FULL), receipt=ACCEPTED
)
LOG_GRANTS = control.LogGrantsAnswer(
    expires_at=AT, executions=(control.LogGrant(execution_id=ID, chunk_urls=GRANT.chunk_urls, chunks=(b"x",)),)
)
FOLLOWED = {
    "grant": msgspec.to_builtins(GRANT),
    "status": msgspec.to_builtins(ENDED),
    "chunk": RECORDS,
    "receipt": msgspec.to_builtins(ACCEPTED),
    "status_code": 200,
}
PENDING = FOLLOWED | {"grant": msgspec.to_builtins(msgspec.structs.replace(GRANT, state="refused", receipt=REFUSED))}


def run_clock_skew(raw: bytes) -> str:
    """An error that tells the server's time, or an answer's date: the client keeps the offset, and then asks what time it is."""
    client = _client({})
    client.cache.hear_time(raw.decode("latin-1"), datetime.now(UTC))
    client.now()
    error = control.parse_error(raw)
    if error is None:
        return "none"
    learned = client.learn_time(error)
    client.now()
    return f"decoded {learned}"


SKEW = control.error_body(RunvoyError(REFUSED.code, "off", "", {"server_time": "2026-02-03T04:05:08Z"}))  # type: ignore[arg-type]


# --- terminal ---------------------------------------------------------------------------------------------------------

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def run_sanitizer(raw: bytes) -> str:
    """Nothing but text, tabs, newlines and colours gets through; how the stream is cut makes no difference; what came
    through once comes through unchanged."""
    whole = _sanitized([raw])
    text = whole.decode()  # raises unless it is UTF-8
    import re

    rest = re.sub(r"\x1b\[[0-9;:]*m", "", text)
    assert not [c for c in rest if (c < " " and c not in "\n\t") or "\x7f" <= c <= "\x9f" or c in _BIDI], rest
    cut = len(raw) // 2
    assert _sanitized([raw[:cut], raw[cut:]]) == whole, "cut in two it is something else"
    if len(raw) <= 4096:
        assert _sanitized([raw[position : position + 1] for position in range(len(raw))]) == whole, "byte by byte"
    assert _sanitized([whole]) == whole, "sanitized twice it is something else"
    assert one_line(text).isprintable()
    return "changed" if whole != raw else "same"


def _sanitized(pieces: list[bytes]) -> bytes:
    sanitizer = Sanitizer()
    shown = b"".join(sanitizer.feed(piece) for piece in pieces)
    return shown + sanitizer.finish()


TERMINAL = (
    b"plain\ntext\twith \x1b[31mcolour\x1b[0m and ool\xc3\xa4\r\n",
    b"\x1b]0;title\x07\x1b[2J\x1b[1;1H\x1b]52;c;eA==\x1b\\\x1bPq#0\x1b\\\x1b(B\x9b31m\xc2\x9b2J\r50 %\r100 %\n",
    "\u202e txt.exe \u2066\u2069 \U0001f600 \xff".encode("utf-8", "surrogatepass")
    + b"\xff\xfe\xed\xa0\x80\x1b[38:2::1:2:3m",
)

# --- request files ----------------------------------------------------------------------------------------------------


def run_request_file(name: str) -> Callable[[bytes], str]:
    """A file of an inbox: it is a request that can be sent, the same each time it is read, or every problem has its line."""
    path = Path("inbox", name)

    def run(raw: bytes) -> str:
        try:
            wanted = request_file.read(path, raw)
        except request_file.BadRequest as problem:
            assert problem.message.startswith(f"{path}, line "), problem.message
            return "refused"
        assert request_file.read(path, raw) == wanted
        request = msgspec.structs.replace(wanted.request, deployment_id="none")
        assert requests.decode(requests.encode(request)) == request
        assert request.command
        return "decoded"

    return run


REQUEST_FILE = {
    "command": ["terraform", "plan", "-out=a b"],
    "image": "terraform",
    "env": {"TF_IN_AUTOMATION": "1", "EMPTY": ""},
    "secrets": ["deployer"],
    "locks": ["prod", "shop/db"],
    "if_locked": "fail",
    "timeout": "1h30m",
    "queue_timeout": 600,
    "cpu": 0.5,
    "memory": "2g",
    "git_repo": "https://git.example.com/infra",
    "git_ref": "main",
    "git_path": "stacks/shop",
    "labels": {"team": "data", "on": "yes"},
    "name": "Plan \U0001f600",
    "id": "plan-42",
    "isolation": "container",
}
PLAYBOOK_CALL = {"playbook": "deploy", "params": {"stage": "test"}, "labels": {"by": "hand"}, "id": "x"}

CLIENT_TARGETS = [
    Target("request-file", YAML, (YAML.dump(REQUEST_FILE), YAML.dump(PLAYBOOK_CALL)), run_request_file("a.yml")),
    Target("request-file-json", JSON, (json.dumps(REQUEST_FILE).encode(),), run_request_file("a.json")),
    Target("config", YAML, (YAML.dump(CONFIG),), coded(run_config)),
    Target("playbook", YAML, (YAML.dump(PLAYBOOK),), coded(run_playbook)),
    Target("values", TEXT, VALUES, coded(run_values)),
    Target("cache", JSON, (_cached(),), run_cache),
    Target("status", JSON, (msgspec.json.encode(SHOWN), msgspec.json.encode(ENDED)), run_parsed(ExecutionStatus)),
    Target("receipt", JSON, (msgspec.json.encode(ACCEPTED), msgspec.json.encode(REFUSED)), run_parsed(Receipt)),
    Target("outbox-grant", JSON, (msgspec.json.encode(GRANT),), run_parsed(control.OutboxGrant)),
    Target("log-grants", JSON, (msgspec.json.encode(LOG_GRANTS),), run_parsed(control.LogGrantsAnswer)),
    Target(
        "log-grants-msgpack",
        MSGPACK,
        (msgspec.msgpack.encode(LOG_GRANTS),),
        run_parsed(control.LogGrantsAnswer, control.MSGPACK),
    ),
    Target("signed-request", JSON, (msgspec.json.encode(SIGNED),), run_parsed(SignedRequestAnswer)),
    Target("follow", JSON, (json.dumps(FOLLOWED).encode(), json.dumps(PENDING).encode()), coded(run_follow)),
    Target("clock-skew", JSON, (SKEW,), run_clock_skew),
    Target("sanitizer", TEXT, TERMINAL, run_sanitizer),
]
