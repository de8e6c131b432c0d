"""The viewer in a real browser: Debian's Chromium without a window, driven by Playwright.

What a test opens is watched: a script error, a message of a violated policy or a request to anywhere but its own origin fails
it.
"""

from __future__ import annotations

import functools
import http.server
import importlib.util
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WEB = ROOT / "web" / "runvoy_web"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE_MS = 20_000
# Without the group `browser` these modules cannot even be imported, and a plain run of all tests goes on without them.
collect_ignore_glob = ["test_*.py"] if importlib.util.find_spec("playwright") is None else []


def _missing() -> str:
    """Why no browser can be driven here; empty if one can."""
    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed (uv sync --group browser)"
    return "" if CHROMIUM else "there is no chromium on this machine (apt-get install chromium)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = _missing()
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("browser")
            if missing:
                item.add_marker(pytest.mark.skip(reason=missing))


def _load(name: str, path: Path) -> Any:
    """A module of another folder of tests, which are no packages."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One Chromium for all tests of this process."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)

    with sync_playwright() as playwright:
        # --no-sandbox: as root, as in a CI's container, Chromium does not start otherwise. It opens pages of this machine alone.
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


class Watched:
    """What went wrong in a context's pages, beside what the test itself asserts."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.expected: list[str] = []

    def attach(self, context: Any) -> None:
        context.add_init_script(
            "document.addEventListener('securitypolicyviolation',"
            " (event) => console.error(`policy violated: ${event.violatedDirective} ${event.blockedURI}`));"
        )
        context.on("page", self._attach_page)

    def expect(self, part: str) -> None:
        """Problems that hold this text are what the test is about."""
        self.expected.append(part)

    def unexpected(self) -> list[str]:
        return [text for text in self.problems if not any(part in text for part in self.expected)]

    def _attach_page(self, page: Any) -> None:
        page.on("pageerror", lambda error: self.problems.append(f"script error: {error}"))
        page.on("console", self._on_console)

    def _on_console(self, message: Any) -> None:
        url = message.location.get("url", "")
        # A browser calls it an error that a chunk of a log is not there yet, or in the moment after a receipt the status.
        is_awaited = "404" in message.text and ("/run/logs/" in url or "/status.json?" in url)
        if message.type == "error" and not is_awaited:
            self.problems.append(f"{message.text} ({url})")


@pytest.fixture
def watched() -> Iterator[Watched]:
    found = Watched()
    yield found
    assert found.unexpected() == []


@pytest.fixture
def new_context(browser: Any, watched: Watched) -> Iterator[Callable[..., Any]]:
    """Makes browser contexts: each has an IndexedDB and a localStorage of its own."""
    made = []

    def make(**options: Any) -> Any:
        # A fixed zone, language and scheme: screenshots of two machines are to look alike.
        settings = {
            "viewport": {"width": 1280, "height": 800},
            "locale": "en-GB",
            "timezone_id": "UTC",
            "color_scheme": "light",
            **options,
        }
        context = browser.new_context(**settings)
        context.set_default_timeout(PATIENCE_MS)
        watched.attach(context)
        made.append(context)
        return context

    yield make
    for context in made:
        context.close()


@pytest.fixture
def page(new_context: Callable[..., Any]) -> Any:
    return new_context().new_page()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One machine with an embedded stack for all tests of this process (see tests/e2e/conftest.py: Machine), up and running."""
    machines = _load("e2e_machines", ROOT / "tests" / "e2e" / "conftest.py")
    machine = machines.Machine(tmp_path_factory.mktemp("browser") / "home")
    machine.ok("local", "up")
    yield machine
    machine.end()


@pytest.fixture
def origin(stack: Any) -> str:
    """Where the stack serves the viewer."""
    return f"http://127.0.0.1:{stack.endpoint()['port']}"


@pytest.fixture
def sign_in(stack: Any, origin: str) -> Callable[[Any], Any]:
    """Gives a page the stack's first key, as somebody pastes it, and waits until the runs are shown."""

    def act(page: Any, api_key: str | None = None) -> Any:
        page.goto(f"{origin}/")
        page.get_by_label("API key or claim token").fill(api_key or (stack.home / "local" / "api_key").read_text())
        page.get_by_role("button", name="Use it").click()
        page.get_by_role("table", name="Runs").wait_for()
        return page

    return act


@pytest.fixture
def viewer(page: Any, sign_in: Callable[[Any], Any]) -> Any:
    """A page that is signed in as the stack's first user."""
    return sign_in(page)


@pytest.fixture(scope="session")
def axe() -> str:
    """axe-core's source. It is run as a debugger runs code: the page's policy would not let it in."""
    return (resources.files("axe_playwright_python") / "axe.min.js").read_text()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    extensions_map = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
    }

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a test's output is its own."""

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")
        super().end_headers()


@pytest.fixture(scope="session")
def static_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A plain web server: its origin, and the folder it serves. `/web/` there is the viewer's files as they lie in the
    repository, `/golden/` the golden messages; a test may write pages beside them."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "web").symlink_to(WEB)
    (folder / "golden").symlink_to(ROOT / "tests" / "golden" / "v1")
    handler = functools.partial(_Quiet, directory=os.fspath(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", folder
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def module_page(browser: Any, static_site: tuple[str, Path]) -> Iterator[Any]:
    """A page of the static site, which can import the viewer's modules."""
    address, folder = static_site
    (folder / "modules.html").write_text("<!doctype html><title>modules</title><link rel=icon href=data:,>")
    page = browser.new_page()
    page.goto(f"{address}/modules.html")
    yield page
    page.close()


@pytest.fixture(scope="module")
def logs() -> Iterator[Any]:
    """Logs by name, without a deployment (a `LogServer`)."""
    from tests.browser.log_pages import LogServer

    server = LogServer()
    yield server
    server.close()
