"""The page of all runs, of one, of locks, and the form: what is seen while commands really run."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import expect

# What nobody sees, or what puts letters elsewhere, as the page writes it out.
UNSEEN: dict[str, str | int | None] = {
    "\u202e": "\\u202e",
    "\u3164": "\\u3164",
    "\U000e0041": "\\u{e0041}",
    "\x1b": "\\u001b",
}
HOSTILE = (
    "<img src=x onerror=alert(1)><script>alert(2)</script>\u202egnp.exe\u3164\U000e0041\x1b[31m"
    " \"quoted\" 'too' javascript:alert(3)"
)


def rows(page: Any, text: str) -> Any:
    return page.get_by_role("row").filter(has_text=text)


def test_the_table_follows_what_happens(viewer: Any, stack: Any) -> None:
    execution_id = stack.ok(
        "submit", "--name", "follow-me", "--label", "team=core", "until [ -e go ]; do sleep 0.05; done; exit 3"
    ).strip()
    row = rows(viewer, "follow-me")
    expect(row).to_contain_text("Running")
    expect(row).to_contain_text("team=core")
    stack.ok("kill", execution_id)
    expect(row).to_contain_text("Stopped")
    expect(viewer.get_by_role("status")).to_contain_text("follow-me: Stopped")


def test_filters(viewer: Any, stack: Any) -> None:
    for words in (["--name", "filter-good", "--label", "f=1", "true"], ["--name", "filter-bad", "exit 1"]):
        stack("run", *words)
    expect(rows(viewer, "filter-good")).to_have_count(1)
    viewer.keyboard.press("/")
    viewer.keyboard.type("filter-")
    expect(viewer.locator("table.runs tbody tr")).to_have_count(2)
    viewer.get_by_label("Filter by state").select_option("failed")
    expect(viewer.locator("table.runs tbody tr")).to_have_count(1)
    expect(rows(viewer, "filter-bad")).to_contain_text("Failed 1")
    assert "state=failed" in viewer.url
    viewer.reload()
    expect(viewer.locator("table.runs tbody tr")).to_have_count(1)
    viewer.get_by_label("Filter by state").select_option("")
    viewer.get_by_label("Filter by label").fill("f=1")
    viewer.keyboard.press("Enter")
    expect(rows(viewer, "filter-good")).to_have_count(1)
    expect(rows(viewer, "filter-bad")).to_have_count(0)
    viewer.get_by_label("Filter by text").fill("nothing has this")
    expect(viewer.get_by_text("No run fits these filters.")).to_be_visible()


def test_mine_are_those_of_one_s_own(viewer: Any, stack: Any, tmp_path: Any) -> None:
    token = stack.ok("users", "create", "eve@example.com", "--role", "developer").strip()
    other = {"RUNVOY_HOME": str(tmp_path / "eve")}
    stack.ok("claim", token, env=other)
    stack.ok("run", "--name", "of-eve", "true", env=other)
    expect(rows(viewer, "of-eve")).to_contain_text("eve@example.com")
    viewer.get_by_label("Mine").check()
    expect(rows(viewer, "of-eve")).to_have_count(0)


def test_older_runs_load_as_one_scrolls(viewer: Any, stack: Any) -> None:
    lines = "\n".join(json.dumps({"command": ["true"], "labels": {"page": "many"}}) for _ in range(130))
    (stack.home / "many.jsonl").write_text(lines + "\n")
    stack.ok("submit", "--bulk", str(stack.home / "many.jsonl"))
    listed = ("list", "--label", "page=many", "--limit", "200", "--json")
    stack.wait_until(lambda: len(json.loads(stack.ok(*listed))) == 130)
    viewer.get_by_label("Filter by label").fill("page=many")
    viewer.keyboard.press("Enter")
    for _ in range(20):
        viewer.mouse.wheel(0, 4000)
        if viewer.get_by_text("That is all.").is_visible():
            break
        viewer.wait_for_timeout(100)
    expect(viewer.locator("table.runs tbody tr")).to_have_count(130)
    assert viewer.locator("figure.timeline a").count() > 0
    expect(viewer.locator("figure.timeline figcaption")).to_contain_text("130 runs")


def test_hostile_names_commands_and_labels_are_text(viewer: Any, stack: Any) -> None:
    printable = HOSTILE.translate(dict.fromkeys(map(ord, UNSEEN)))
    stack.ok("run", "--name", printable[:120], "--label", f"l={printable[:200]}", "--", "echo", HOSTILE)
    row = rows(viewer, "onerror").first
    expect(row).to_be_visible()
    shown = HOSTILE.translate(str.maketrans(UNSEEN)).replace("'", "'\\''")
    expect(row.locator("code")).to_have_text(f"echo '{shown}'")
    row.get_by_role("link").click()
    expect(viewer.locator(".run-title code")).to_have_text(f"echo '{shown}'")
    expect(viewer.locator("[data-part=request] pre")).to_have_text(f"echo '{shown}'")
    # But for the log, which has its own ways to show what a command printed.
    expect(viewer.locator(".log-host")).to_contain_text("onerror")
    outside = viewer.evaluate(
        "() => { const all = document.body.cloneNode(true); all.querySelector('.log-host').remove(); return all.innerHTML }"
    )
    assert not re.search(f"[{''.join(UNSEEN)}]", outside + viewer.title())
    # What is copied and sent again is what was signed, to the letter.
    viewer.get_by_role("button", name="Run again").click()
    expect(viewer.get_by_label("Command", exact=True)).to_have_value(f"echo\n{HOSTILE}")
    assert viewer.locator("main img, main script").count() == 0


def test_a_run_is_watched_to_its_end(viewer: Any, stack: Any) -> None:
    command = f"echo first; until [ -e '{stack.home}/go-on' ]; do sleep 0.05; done; echo last; exit 7"
    execution_id = stack.ok("submit", "--name", "watched", "--lock", "w-lock", command).strip()
    viewer.goto(viewer.url.partition("?")[0] + f"?execution_id={execution_id}")
    expect(viewer.locator(".run-head")).to_contain_text("Running")
    expect(viewer.locator(".log-host")).to_contain_text("first")
    expect(viewer.locator("aside")).to_contain_text("held, fence")
    (stack.home / "go-on").touch()
    expect(viewer.locator(".run-head")).to_contain_text("exit code 7")
    expect(viewer.locator(".log-host")).to_contain_text("last")
    expect(viewer.get_by_text(re.compile("The command exited"))).to_be_visible()
    assert "Failed" in viewer.title()


def test_a_run_is_killed_after_a_question_and_run_again(viewer: Any, stack: Any) -> None:
    execution_id = stack.ok(
        "submit", "--name", "doomed", "--label", "a=b", "--timeout", "90s", "--", "sh", "-c", "echo x; sleep 60"
    ).strip()
    viewer.goto(viewer.url.partition("?")[0] + f"?execution_id={execution_id}")
    viewer.get_by_role("button", name="Kill").click()
    viewer.keyboard.press("Escape")
    expect(viewer.locator(".run-head")).to_contain_text("Running")
    viewer.get_by_role("button", name="Kill").click()
    viewer.get_by_role("dialog").get_by_role("button", name="Kill").click()
    expect(viewer.locator(".run-head")).to_contain_text("Stopped")
    viewer.get_by_role("button", name="Run again").click()
    expect(viewer.get_by_label("Command", exact=True)).to_have_value("sh\n-c\necho x; sleep 60")
    viewer.get_by_label("Command", exact=True).fill("sh\n-c\necho again; exit 0")
    viewer.get_by_role("button", name="Run", exact=True).click()
    expect(viewer.locator(".run-head")).to_contain_text("Succeeded")
    again = stack.status(re.search("execution_id=([0-9a-f]{32})", viewer.url).group(1))
    assert again["command"] == ["sh", "-c", "echo again; exit 0"]
    assert (again["name"], again["labels"], again["timeout_seconds"]) == ("doomed", {"a": "b"}, 90)


def test_the_form_submits_all_that_it_says(viewer: Any, stack: Any) -> None:
    stack.ok("secrets", "create", "form-secret", "FORM_SECRET", stdin=_pipe(b"correct horse battery"))
    viewer.keyboard.press("n")
    viewer.get_by_label("Command", exact=True).fill('echo "$GREETING, secret: $FORM_SECRET"')
    viewer.get_by_label("Name", exact=True).fill("from-a-form")
    viewer.get_by_label("Variables").fill("GREETING=hällo=1\n")
    viewer.get_by_label("Secrets").fill("form-secret")
    viewer.get_by_label("Locks").fill("form-a, form-b")
    viewer.get_by_label("Labels").fill("a=1\nb=2")
    viewer.get_by_label("Timeout", exact=True).fill("1m30s")
    viewer.get_by_role("button", name="Run", exact=True).click()
    expect(viewer.locator(".run-head")).to_contain_text("Succeeded")
    expect(viewer.locator(".log-host")).to_contain_text("hällo=1, secret: ***")
    status = stack.status(re.search("execution_id=([0-9a-f]{32})", viewer.url).group(1))
    assert [lock["name"] for lock in status["locks"]] == ["form-a", "form-b"]
    assert (status["labels"], status["timeout_seconds"]) == ({"a": "1", "b": "2"}, 90)


def test_a_form_that_cannot_be_sent_says_which_field(viewer: Any) -> None:
    viewer.keyboard.press("n")
    viewer.get_by_label("Timeout", exact=True).fill("soon")
    viewer.get_by_label("Variables").fill("no equals sign")
    viewer.get_by_role("button", name="Run", exact=True).click()
    expect(viewer.get_by_role("alert")).to_contain_text("There is no command.")
    expect(viewer.get_by_role("alert")).to_contain_text("“soon” is no duration")
    expect(viewer.get_by_label("Timeout", exact=True)).to_have_attribute("aria-invalid", "true")


def test_a_refused_run_says_why_and_can_be_changed(viewer: Any) -> None:
    viewer.keyboard.press("n")
    viewer.get_by_label("Command", exact=True).fill("echo never")
    viewer.get_by_label("Secrets").fill("no-such-secret")
    viewer.get_by_role("button", name="Run", exact=True).click()
    expect(viewer.locator(".run-head")).to_contain_text("SECRET_NOT_FOUND")
    viewer.get_by_role("button", name="Change it and try again").click()
    expect(viewer.get_by_label("Command", exact=True)).to_have_value("echo never")
    viewer.get_by_label("Secrets").fill("")
    viewer.get_by_role("button", name="Run", exact=True).click()
    expect(viewer.locator(".run-head")).to_contain_text("Succeeded")


@pytest.fixture
def reckoning(stack: Any) -> None:
    """Deployments before the one that reckons costs know no dry run either, and the page says so."""
    if stack("cost").returncode == 2:
        pytest.skip("this deployment reckons no costs")


def test_a_dry_run_says_what_would_come_of_it(viewer: Any, stack: Any, reckoning: None) -> None:
    stack.ok("submit", "--lock", "dry-lock", "sleep 30")
    viewer.keyboard.press("n")
    viewer.get_by_label("Command", exact=True).fill("echo never run")
    viewer.get_by_role("button", name="Dry run").click()
    expect(viewer.locator(".note")).to_contain_text("It would be accepted, and start.")
    viewer.get_by_label("Locks").fill("dry-lock")
    viewer.get_by_role("button", name="Dry run").click()
    expect(viewer.locator(".note")).to_contain_text("It would be accepted, and wait.")
    expect(viewer.locator(".note")).to_contain_text("dry-lock: next")
    viewer.get_by_label("Secrets").fill("nobody-s")
    viewer.get_by_role("button", name="Dry run").click()
    expect(viewer.get_by_role("alert")).to_contain_text("SECRET_NOT_FOUND")
    assert "never run" not in stack.ok("list", "--limit", "200")


def test_what_runs_cost_is_shown(viewer: Any, stack: Any, reckoning: None) -> None:
    stack.ok("run", "--name", "costly", "true")
    viewer.reload()
    expect(viewer.locator("figure.columns figcaption")).to_contain_text("Fargate would have cost")
    viewer.get_by_role("link", name="costly").click()
    expect(viewer.locator("aside")).to_contain_text("is what it would have cost on Fargate")


def test_locks_show_the_holder_and_who_waits(viewer: Any, stack: Any) -> None:
    holder = stack.ok("submit", "--lock", "queue-lock", "sleep 60").strip()
    waiter = stack.ok("submit", "--lock", "queue-lock", "echo waited").strip()
    stack.wait_until(lambda: stack.status(holder)["state"] == "RUNNING")
    viewer.get_by_role("link", name="Locks").click()
    card = viewer.get_by_role("region", name="Lock queue-lock")
    expect(card).to_contain_text("Held by")
    expect(card.get_by_role("listitem")).to_have_count(1)
    card.get_by_role("listitem").get_by_role("link").click()
    expect(viewer.locator("aside")).to_contain_text("next; held for")
    assert waiter in viewer.url
    # Killed before it began: its log is complete, and empty.
    stack.ok("kill", waiter)
    expect(viewer.locator(".run-head")).to_contain_text("Stopped")
    expect(viewer.locator(".log-host")).to_contain_text("complete")
    stack.ok("kill", holder)


def test_what_one_on_call_asks_first_is_on_the_page(viewer: Any, stack: Any) -> None:
    holder = stack.ok("submit", "--name", "holds-it", "--lock", "oncall-lock", "echo one; sleep 100").strip()
    stack.wait_until(lambda: stack.status(holder)["state"] == "RUNNING")
    waits = stack.ok("submit", "--name", "waits-for-it", "--lock", "oncall-lock", "true").strip()
    when = rows(viewer, "waits-for-it").locator("time")
    expect(when).to_have_attribute("title", re.compile("^Accepted\n"))
    expect(rows(viewer, "holds-it").locator("time")).to_have_attribute("title", re.compile("^Started\n"))
    viewer.goto(viewer.url.partition("?")[0] + f"?execution_id={waits}")
    viewer.get_by_role("button", name="Kill").click()
    expect(viewer.get_by_role("dialog")).to_contain_text("waits-for-it: it has not started, and then never will.")
    viewer.keyboard.press("Escape")
    viewer.locator(".why").get_by_role("link").click()
    assert viewer.url.endswith(holder)
    expect(viewer.locator(".run-head")).to_contain_text("Running")
    stack.ok("kill", holder)
    expect(viewer.locator(".run-head")).to_contain_text(re.compile(r"ended (now|\d+s ago)"))
    expect(viewer.locator("aside dl > div", has_text="Log").first).to_have_text("Log1 line")


def test_killing_another_s_run_says_whose_it_is(new_context: Any, origin: str, stack: Any) -> None:
    token = json.loads(stack.ok("users", "create", "night-shift", "--role", "operator", "--json"))["token"]
    execution_id = stack.ok("submit", "--name", "day-shift", "sleep 100").strip()
    page = new_context().new_page()
    page.goto(origin)
    page.get_by_label("API key or claim token").fill(token)
    page.get_by_role("button", name="Use it").click()
    page.get_by_role("table", name="Runs").wait_for()
    page.goto(f"{origin}/?execution_id={execution_id}")
    page.get_by_role("button", name="Kill").click()
    owner = stack.status(execution_id)["owner"]
    expect(page.get_by_role("dialog")).to_contain_text(f"day-shift, a run of {owner}: the command is sent SIGTERM")
    page.get_by_role("dialog").get_by_role("button", name="Kill").click()
    expect(page.locator(".run-head")).to_contain_text("Stopped")


def test_a_slow_network_shows_that_something_is_awaited(viewer: Any, stack: Any) -> None:
    execution_id = stack.ok("submit", "echo there").strip()
    stack.ok("wait", execution_id)
    held: list[Any] = []
    is_slow = True

    def hold(route: Any) -> None:
        held.append(route) if is_slow else route.continue_()

    viewer.route(re.compile(r"/executions/"), hold)
    viewer.goto(viewer.url.partition("?")[0] + f"?execution_id={execution_id}")
    expect(viewer.get_by_text("Loading…")).to_be_visible()
    expect(viewer.locator(".log-host")).to_be_hidden()
    expect(viewer.get_by_label("About this run")).to_be_hidden()
    is_slow = False
    for route in held:
        route.continue_()
    expect(viewer.locator(".log-host")).to_contain_text("there")
    expect(viewer.get_by_text("Loading…")).to_have_count(0)


def test_a_run_that_there_is_not_says_so(viewer: Any, watched: Any) -> None:
    watched.expect("404")
    viewer.goto(viewer.url.partition("?")[0] + "?execution_id=01a213cc0bff7d84b2f4f4ad6a2c0000")
    expect(viewer.get_by_role("alert")).to_contain_text("NOT_FOUND")
    for part in (".log-host", ".facts"):  # of nothing there is nothing to show
        expect(viewer.locator(part)).to_be_hidden()


@pytest.mark.parametrize(
    "name", ["../../whoami", "../keys/x", "", '"><img src=x onerror=alert(1)>', "0" * 31, "g" * 32]
)
def test_a_link_to_no_run_asks_the_deployment_nothing(viewer: Any, name: str) -> None:
    root = viewer.url.partition("?")[0]
    viewer.goto("about:blank")  # the table of runs asks as long as it is there
    asked: list[str] = []
    viewer.on("request", lambda request: asked.append(request.url))
    viewer.goto(root + "?" + urlencode({"execution_id": name}))
    expect(viewer.get_by_role("alert")).to_contain_text("This link is to no run")
    assert [url for url in asked if "/api/" in url] == [f"{root}api/v1/whoami"]


@pytest.mark.parametrize("view", ["__proto__", "constructor", "toString", "nothing"])
def test_a_link_to_no_page_shows_the_runs(viewer: Any, view: str) -> None:
    viewer.goto(viewer.url.partition("?")[0] + f"?view={view}")
    expect(viewer.get_by_role("table", name="Runs")).to_be_visible()


def test_a_label_that_there_is_no_room_for_ends_in_an_ellipsis(viewer: Any, stack: Any) -> None:
    stack.ok("run", "--name", "crowded" * 12, "--label", f"env={'production-' * 8}", "--label", "team=core", "true")
    label = rows(viewer, "crowded").locator(".label").first
    expect(label).to_have_css("text-overflow", "ellipsis")
    expect(label).to_have_css("display", "block")  # of a flex container's text none would be drawn
    assert label.evaluate("one => one.scrollWidth > one.clientWidth")


def _pipe(data: bytes) -> int:
    import os

    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    return reading
