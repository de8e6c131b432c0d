"""Going about in the viewer: back and forward, to other lines, between tabs, and on when something failed."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

MANY = 60


@pytest.fixture
def lines(stack: Any) -> str:
    """A run that printed a thousand lines."""
    done = stack.ok("submit", "--", sys.executable, "-c", "for n in range(1, 1001): print('line', n)").strip()
    stack.wait_until(lambda: stack.status(done)["state"] == "SUCCEEDED")
    return str(done)


def _marked(page: Any, *numbers: int) -> None:
    expect(page.locator(".rv-marked .rv-n")).to_have_text([str(number) for number in numbers])


def test_another_line_in_the_address_moves_the_log_that_is_there(viewer: Any, lines: str) -> None:
    viewer.goto(viewer.url.partition("?")[0] + f"?execution_id={lines}#L100")
    _marked(viewer, 100)
    viewer.locator(".rv-field").fill("line 7")
    viewer.evaluate("location.hash = '#L700-L701'")
    _marked(viewer, 700, 701)
    expect(viewer.locator(".rv-field")).to_have_value("line 7")  # the page was not made anew
    viewer.go_back()
    _marked(viewer, 100)
    viewer.evaluate("location.hash = '#nothing'")
    expect(viewer.locator(".rv-marked")).to_have_count(0)


def test_who_skips_to_the_content_loses_nothing(viewer: Any, lines: str) -> None:
    root = viewer.url.partition("?")[0]
    viewer.goto(root + f"?execution_id={lines}#L100")
    _marked(viewer, 100)
    skip = viewer.get_by_role("link", name="Skip to content")
    skip.press("Enter")
    expect(viewer.locator("main")).to_be_focused()
    assert viewer.url.endswith("#L100")
    _marked(viewer, 100)
    viewer.goto(root + "?view=new")
    viewer.get_by_label("Command", exact=True).fill("echo half a thought")
    skip.press("Enter")
    expect(viewer.locator("main")).to_be_focused()
    expect(viewer.get_by_label("Command", exact=True)).to_have_value("echo half a thought")


def test_what_was_typed_is_there_when_one_comes_back_and_gone_once_it_was_sent(viewer: Any) -> None:
    command = viewer.get_by_label("Command", exact=True)
    viewer.keyboard.press("n")
    command.fill("echo typed")
    viewer.get_by_label("Name", exact=True).fill("kept")
    viewer.get_by_role("link", name="Locks", exact=True).click()
    expect(command).to_have_count(0)
    viewer.go_back()
    expect(command).to_have_value("echo typed")
    viewer.get_by_role("link", name="A playbook", exact=True).click()
    viewer.get_by_role("link", name="New run", exact=True).click()
    expect(viewer.get_by_label("Name", exact=True)).to_have_value("kept")
    viewer.get_by_role("button", name="Clear the form").click()
    expect(command).to_have_value("")
    command.fill("echo sent")
    viewer.get_by_role("button", name="Run", exact=True).click()
    expect(viewer.locator(".run-head")).to_contain_text("Succeeded")
    viewer.get_by_role("link", name="New run", exact=True).click()
    expect(command).to_have_value("")


def test_the_way_back_leads_to_where_one_was_in_the_table(viewer: Any, stack: Any, tmp_path: Any) -> None:
    file = tmp_path / "bulk.jsonl"
    file.write_text(
        "".join(
            f'{{"command": "true", "name": "row {number}", "labels": {{"far": "down"}}}}\n' for number in range(MANY)
        )
    )
    ids = stack.ok("submit", "--bulk", str(file)).split()
    stack.ok("wait", *ids)
    viewer.goto(viewer.url.partition("?")[0] + "?label=far%3Ddown")
    rows = viewer.locator("table.runs tbody tr")
    expect(rows).to_have_count(MANY)
    expect(rows.filter(has_text="Succeeded")).to_have_count(MANY)
    row = viewer.get_by_role("link", name="row 2 true")
    row.click()
    expect(viewer.locator(".run-head")).to_contain_text("row 2")
    viewer.go_back()
    expect(row).to_be_focused()
    expect(row).to_be_in_viewport()
    assert viewer.evaluate("scrollY") > 0
    viewer.get_by_role("link", name="Runs", exact=True).click()
    expect(rows.first).to_be_in_viewport()
    assert viewer.evaluate("scrollY") == 0


def test_what_one_tab_forgets_is_forgotten_in_all(new_context: Callable[..., Any], sign_in: Any, lines: str) -> None:
    context = new_context()
    one = sign_in(context.new_page())
    other = context.new_page()
    other.goto(one.url.partition("?")[0] + f"?execution_id={lines}")
    expect(other.locator(".run-head")).to_contain_text("Succeeded")
    one.goto(one.url.partition("?")[0] + "?view=access")
    one.get_by_label("Colours").select_option("dark")
    expect(other.locator("html")).to_have_attribute("data-theme", "dark")
    one.get_by_role("button", name="Forget this browser").click()
    one.get_by_role("dialog").get_by_role("button", name="Forget", exact=True).click()
    expect(one.get_by_role("heading", name="Welcome to runvoy")).to_be_visible()
    expect(other.get_by_role("heading", name="Welcome to runvoy")).to_be_visible()
    expect(other.locator("html")).not_to_have_attribute("data-theme", "dark")
    expect(other.locator(".run-head, .rv-log")).to_have_count(0)
    sign_in(one)
    expect(other.locator(".run-head")).to_contain_text("Succeeded")  # the address is what it was


def test_what_was_typed_with_one_key_is_not_there_with_the_next(viewer: Any) -> None:
    viewer.keyboard.press("n")
    command = viewer.get_by_label("Command", exact=True)
    command.fill("echo typed")
    command.evaluate("element => element.dataset.before = 1")
    viewer.evaluate("() => { new BroadcastChannel('runvoy.identity').postMessage('changed'); }")
    expect(viewer.locator("[data-before]")).to_have_count(0)
    expect(command).to_have_value("")


def test_a_kill_that_nobody_answers_is_told_as_such(viewer: Any, stack: Any, watched: Any) -> None:
    go_on = shlex.quote(str(stack.home / "killed"))
    run = stack.ok("submit", f"while [ ! -e {go_on} ]; do sleep 0.1; done").strip()
    stack.wait_until(lambda: stack.status(run)["state"] == "RUNNING")
    viewer.goto(viewer.url.partition("?")[0] + f"?execution_id={run}")
    kill = viewer.get_by_role("button", name="Kill")
    expect(viewer.locator(".run-head")).to_contain_text("Running")
    watched.expect("ERR_FAILED")
    viewer.route(re.compile("/api/v1/executions/"), lambda route: route.abort())
    kill.click()
    viewer.get_by_role("dialog").get_by_role("button", name="Kill").click()
    expect(kill).to_be_disabled()
    expect(viewer.locator(".problem")).to_contain_text("Whether the run is being killed is not known")
    expect(kill).to_be_enabled()
    viewer.unroute_all()
    kill.click()
    viewer.get_by_role("dialog").get_by_role("button", name="Kill").click()
    expect(viewer.locator(".run-head")).to_contain_text("Stopped")
    expect(viewer.locator(".problem")).to_have_count(0)
