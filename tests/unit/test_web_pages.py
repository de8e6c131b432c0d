"""What the viewer's files are handed out with, and which pages of other origins may call."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from runvoy_protocol.states import State
from runvoy_web import origins, pages

WEB = Path(__file__).parents[2] / "web" / "runvoy_web"
FILES = [path for path in WEB.rglob("*") if path.suffix in (".js", ".css", ".svg", ".html")]


def served(path: str, method: str = "GET", **headers: str) -> pages.Served:
    found = pages.serve(method, path, {name.replace("_", "-"): value for name, value in headers.items()})
    assert found is not None, path
    return found


def header(answer: pages.Served, name: str) -> str:
    return dict(answer.headers).get(name, "")


def own_files() -> dict[str, str]:
    """What the page loads by itself: name → address."""
    page = served("/").body.decode()
    return {address.rsplit("/", 1)[1]: address for address in re.findall(r'(?:href|src)="(/web/[^"]+)"', page)}


@pytest.mark.parametrize("path", ["/", "/index.html", "/web", "/web/"])
def test_the_page_is_looked_at_again_and_what_it_loads_is_kept(path: str) -> None:
    page = served(path)
    assert header(page, "Content-Type") == "text/html; charset=utf-8"
    assert header(page, "Cache-Control") == "no-cache"
    assert {"main.js", "style.css", "log.css", "icon.svg"} <= own_files().keys()
    for address in own_files().values():
        assert "immutable" in header(served(address), "Cache-Control")


def test_all_modules_are_asked_for_at_once() -> None:
    preloaded = set(re.findall(r'<link rel="modulepreload" href="([^"]+)">', served("/").body.decode()))
    modules = [path.relative_to(WEB).as_posix() for path in FILES if path.suffix == ".js"]
    assert {address.split("/", 3)[3] for address in preloaded} == set(modules)


def test_every_file_is_served_under_the_digest_of_them_all() -> None:
    root = own_files()["main.js"].removesuffix("main.js")
    for path in FILES:
        name = path.relative_to(WEB).as_posix()
        if name != "index.html":
            assert served(root + name).body == path.read_bytes(), name
    another = "1" if root[-2] == "0" else "0"
    assert pages.serve("GET", f"{root[:-2]}{another}/main.js", {}) is None
    for wrong in (
        "/main.js",
        "/web/main.js",
        f"{root}pages.py",
        f"{root}__init__.py",
        f"{root}../main.js",
        "/web/../etc/passwd",
    ):
        assert pages.serve("GET", wrong, {}) is None, wrong


def test_what_is_known_is_not_sent_again() -> None:
    page = served("/")
    etag = header(page, "ETag")
    for known in (etag, f'"x", {etag}', f"W/{etag}"):
        again = served("/", if_none_match=known)
        assert (again.status, again.body) == (304, b"")
    assert served("/", if_none_match='"other"').status == 200


def test_files_are_compressed_for_who_takes_that() -> None:
    plain, small = served("/"), served("/", accept_encoding="br, gzip")
    assert header(small, "Content-Encoding") == "gzip"
    assert gzip.decompress(small.body) == plain.body
    assert header(plain, "Content-Encoding") == ""
    assert header(plain, "Vary") == header(small, "Vary") == "Accept-Encoding"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_files_are_only_read(method: str) -> None:
    answer = served("/", method)
    assert (answer.status, answer.body, header(answer, "Allow")) == (405, b"", "GET, HEAD")


def test_what_the_browser_is_told_to_forbid() -> None:
    answer = pages.serve("GET", "/", {}, ("https://bucket.s3.eu-west-1.amazonaws.com",))
    assert answer is not None
    policy = dict(part.split(" ", 1) for part in header(answer, "Content-Security-Policy").split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["img-src"] == "'self'"
    assert policy["connect-src"] == "'self' https://bucket.s3.eu-west-1.amazonaws.com"
    assert (policy["require-trusted-types-for"], policy["trusted-types"]) == ("'script'", "'none'")
    assert header(answer, "X-Content-Type-Options") == "nosniff"
    assert header(answer, "Referrer-Policy") == "no-referrer"


def test_a_policy_comes_with_what_can_be_a_page_and_every_file_with_what_it_may_be_taken_for() -> None:
    for name, address in {**own_files(), "": "/"}.items():
        answer = served(address)
        assert header(answer, "X-Content-Type-Options") == "nosniff", name
        assert header(answer, "Cross-Origin-Resource-Policy") == "same-origin", name
        is_page = header(answer, "Content-Type").partition(";")[0] in ("text/html", "image/svg+xml")
        assert bool(header(answer, "Content-Security-Policy")) == is_page, name


def test_a_first_visit_loads_little() -> None:
    """All parts as they are sent, with the answers' headers, which are some 350 bytes a file."""
    sizes = [len(served(address, accept_encoding="gzip").body) for address in {"/", *own_files().values()}]
    assert len(sizes) == len(FILES)
    assert sum(sizes) + 350 * len(sizes) < 150_000


def test_nothing_in_the_files_is_of_anybody_else() -> None:
    """No address of another host but in comments and namespaces, and no way to make markup of text."""
    for path in FILES:
        text = path.read_text()
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert word not in text, (path.name, word)
        code = re.sub(r"/\*.*?\*/|//.*", "", text.replace("://", "§"), flags=re.DOTALL)
        assert set(re.findall(r"https?§([^\s\"'`/)]+)", code)) <= {
            "www.w3.org",
            "example.com",
            "host.",
            "127.0.0.1:*",
            "localhost:*;",
        }, path.name


@pytest.mark.parametrize(
    "text", ["https://runs.example.com", "https://x:8443", "http://127.0.0.1:8000", "http://localhost"]
)
def test_origins(text: str) -> None:
    assert origins.parse([text, f" {text}/ ", ""]) == {text}
    named = frozenset({text})
    assert ("Access-Control-Allow-Origin", text) in origins.headers(text, named)
    assert origins.headers("https://evil.example.com", named) == (("Vary", "Origin"),)
    assert origins.headers(None, named) == (("Vary", "Origin"),)
    assert origins.headers(text, frozenset()) == ()


@pytest.mark.parametrize(
    "text",
    [
        "*",
        "null",
        "runs.example.com",
        "http://runs.example.com",
        "https://a/b",
        "https://A",
        "https://a?b",
        "https://u@a",
    ],
)
def test_what_is_no_origin(text: str) -> None:
    with pytest.raises(ValueError, match="is no origin"):
        origins.parse([text])


def run_in_node(script: str) -> str:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node")
    command = [node, "--input-type=module", "-e", script]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def test_a_state_is_called_here_as_the_command_line_calls_it() -> None:
    module = json.dumps((WEB / "format.js").as_uri())
    shown = run_in_node(f"import {{ STATES, stateWord }} from {module}; console.log(STATES.map(stateWord).join());")
    assert shown.split(",") == [state.value.capitalize().replace("_", " ") for state in State]


def test_what_nobody_had_killed_is_not_told_as_killed_by_somebody() -> None:
    """A stop of the platform's own has a user's wish as its reason, and `interrupted` as its explanation."""
    message = "it was told to end, and runvoy was not asked for that"
    run = {"state": "STOPPED", "reason": "killed", "message": message, "explanation": {"reason": "interrupted"}}
    module = json.dumps((WEB / "format.js").as_uri())
    shown = run_in_node(f"import {{ reasonText }} from {module}; console.log(reasonText({json.dumps(run)}));")
    assert shown == "It was told to end, and runvoy was not asked for that"
