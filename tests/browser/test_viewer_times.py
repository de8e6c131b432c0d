"""Times in the zone of the reader's machine, with its name; in UTC where they choose so; and both in each tooltip."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import expect
from tests.browser.log_pages import LogServer, records
from tests.browser.log_steps import eventually, settled

KABUL = ZoneInfo("Asia/Kabul")
# Half an hour off in every season, so that no whole hour that is lost or won looks right by chance.
IN_KABUL = {"timezone_id": "Asia/Kabul"}


@pytest.fixture(scope="module")
def ended(stack: Any) -> dict[str, Any]:
    execution_id = stack.ok("submit", "--name", "timely", "echo one; echo two").strip()
    stack.ok("wait", execution_id)
    found: dict[str, Any] = stack.status(execution_id)
    return found


def fact(page: Any, name: str) -> Any:
    return page.locator("aside dl > div").filter(has=page.get_by_text(name, exact=True)).first.locator("time")


def words(at: str, zone: ZoneInfo, name: str) -> str:
    there = datetime.fromisoformat(at).astimezone(zone)
    return f"{there.day} {there:%b %Y, %H:%M:%S} {name}"


def test_a_run_s_times_are_the_reader_s_and_utc_is_one_switch_away(
    new_context: Callable[..., Any], sign_in: Callable[..., Any], ended: dict[str, Any]
) -> None:
    page = sign_in(new_context(**IN_KABUL).new_page())
    page.goto(page.url.partition("?")[0] + f"?execution_id={ended['execution_id']}")
    local, utc = words(ended["started_at"], KABUL, "GMT+4:30"), words(ended["started_at"], ZoneInfo("UTC"), "UTC")
    expect(fact(page, "Started")).to_have_text(local)
    expect(fact(page, "Started")).to_have_attribute("title", f"{local}\n{utc}")
    expect(fact(page, "Issued")).to_have_text(re.compile("GMT"))
    page.get_by_label("Times (t)").click()
    first = settled(page) and page.locator(".rv-row .rv-t").first
    at = datetime.fromisoformat(first.get_attribute("datetime"))
    expect(first).to_have_text(at.astimezone(KABUL).strftime("%H:%M:%S.") + f"{at.microsecond // 1000:03}")
    page.get_by_role("button", name="GMT+4:30").click()
    expect(fact(page, "Started")).to_have_text(utc)
    expect(fact(page, "Issued")).to_have_text(re.compile("UTC"))
    expect(first).to_have_text(at.strftime("%H:%M:%S.") + f"{at.microsecond // 1000:03}")
    page.reload()
    expect(fact(page, "Started")).to_have_text(utc)
    page.locator(".rv-scroller").focus()
    page.keyboard.press("z")
    expect(fact(page, "Started")).to_have_text(local)
    expect(page.locator("#live")).to_have_text("Times are in Asia/Kabul")


def test_every_page_has_the_same_zone_and_every_tab(
    new_context: Callable[..., Any], sign_in: Callable[..., Any], ended: dict[str, Any]
) -> None:
    context = new_context(**IN_KABUL)
    page = sign_in(context.new_page())
    when = page.locator("tr", has_text="timely").locator("time")
    local = words(ended["started_at"], KABUL, "GMT+4:30")
    expect(when).to_have_attribute("title", re.compile(re.escape(local)))
    expect(page.locator(".timeline figcaption")).to_have_text(re.compile(r" GMT\+4:30$"))
    other = context.new_page()
    other.goto(page.url.partition("?")[0] + "?view=access")
    expect(other.get_by_label("Times")).to_have_value("Asia/Kabul")
    other.get_by_label("Times").select_option("UTC")
    expect(page.locator(".timeline figcaption")).to_have_text(re.compile(" UTC$"))
    expect(page.get_by_role("button", name="UTC")).to_be_visible()
    page.keyboard.press("z")
    expect(other.get_by_label("Times")).to_have_value("Asia/Kabul")


def test_what_the_deployment_tells_in_utc_is_told_in_the_reader_s_zone(
    new_context: Callable[..., Any], sign_in: Callable[..., Any], stack: Any
) -> None:
    holder = stack.ok("submit", "--lock", "timely-lock", "sleep 100").strip()
    stack.wait_until(lambda: stack.status(holder)["state"] == "RUNNING")
    waits = stack.ok("submit", "--lock", "timely-lock", "true").strip()
    page = sign_in(new_context(**IN_KABUL).new_page())
    page.goto(page.url.partition("?")[0] + f"?execution_id={waits}")
    expect(page.locator(".why")).to_contain_text(re.compile(r"since \d+ \w+ \d{4}, \d\d:\d\d:\d\d GMT\+4:30"))
    page.keyboard.press("z")
    expect(page.locator(".why")).to_contain_text(re.compile(r"since \d+ \w+ \d{4}, \d\d:\d\d:\d\d UTC"))
    stack("kill", holder)


TOLD = """async () => {
  const { withTimes } = await import("/web/times.js");
  return ["since 2030-01-31 09:00:00 UTC.", "2030-01-31T09:00:00.100Z, 2030-99-99 09:00:00 UTC", "at 2030-01-31"].map((words) =>
    withTimes(words).map((part) => (part.nodeType ? `<${part.textContent}>` : part)).join(""));
}"""


def test_a_moment_that_there_is_not_stays_as_it_was_told(module_page: Any) -> None:
    since, both, none = module_page.evaluate(TOLD)
    assert re.fullmatch(r"since <.*31.*>\.", since)
    assert re.fullmatch(r"<.*31.*>, 2030-99-99 09:00:00 UTC", both)
    assert none == "at 2030-01-31"


def test_where_the_machine_has_utc_there_is_nothing_to_switch(viewer: Any, ended: dict[str, Any]) -> None:
    viewer.goto(viewer.url.partition("?")[0] + f"?execution_id={ended['execution_id']}")
    utc = words(ended["started_at"], ZoneInfo("UTC"), "UTC")
    expect(fact(viewer, "Started")).to_have_text(utc)
    expect(fact(viewer, "Started")).to_have_attribute("title", utc)
    expect(viewer.locator("#zone")).to_be_hidden()
    viewer.keyboard.press("z")
    expect(fact(viewer, "Started")).to_have_text(utc)
    viewer.goto(viewer.url.partition("?")[0] + "?view=access")
    expect(viewer.get_by_label("Colours")).to_be_visible()
    expect(viewer.get_by_label("Times")).to_have_count(0)


@pytest.mark.parametrize("known", ["Etc/Nowhere", "Etc/UTC"])
def test_a_machine_without_a_zone_that_is_known_has_utc_and_one_with_another_name_of_it_as_well(
    new_context: Callable[..., Any], sign_in: Callable[..., Any], ended: dict[str, Any], known: str
) -> None:
    context = new_context(**IN_KABUL)
    context.add_init_script(
        "{ const known = Intl.DateTimeFormat.prototype.resolvedOptions;"
        " Intl.DateTimeFormat.prototype.resolvedOptions = function () {"
        " return { ...known.call(this), timeZone: '" + known + "' }; }; }"
    )
    page = sign_in(context.new_page())
    page.goto(page.url.partition("?")[0] + f"?execution_id={ended['execution_id']}")
    utc = words(ended["started_at"], ZoneInfo("UTC"), "UTC")
    expect(fact(page, "Started")).to_have_text(utc)
    expect(fact(page, "Started")).to_have_attribute("title", utc)


def test_a_log_s_times_pass_over_the_hour_that_a_summer_takes(new_context: Callable[..., Any], logs: LogServer) -> None:
    before = int(datetime(2030, 3, 31, 0, 59, 59, 999_000, ZoneInfo("UTC")).timestamp() * 1000 + 0.5)
    chunks = [
        records(
            {"n": 1, "t": before, "m": "winter\n"},
            {"n": 2, "t": before + 1, "m": "summer\n"},
            {"n": 3, "s": "sys", "end": True},
        )
    ]
    page = new_context(timezone_id="Europe/Berlin").new_page()
    page.goto(logs.put("summer", chunks))
    page.get_by_label("Times (t)").click()
    times = page.locator(".rv-rows .rv-row .rv-t")
    eventually(lambda: times.all_inner_texts() == ["01:59:59.999", "03:00:00.000"])
    assert times.nth(0).get_attribute("title").startswith("31 Mar 2030, 01:59:59 CET\n")
    assert times.nth(1).get_attribute("title") == "31 Mar 2030, 03:00:00 CEST\n31 Mar 2030, 01:00:00 UTC"
