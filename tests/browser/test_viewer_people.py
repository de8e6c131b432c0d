"""For people: who hears the page, who has no mouse, a phone, a bad network, a clock that is off; and what is served to them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

SERIOUS = ("serious", "critical")


def findings(page: Any, axe: str) -> list[str]:
    page.evaluate(axe + "; undefined")
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found if one["impact"] in SERIOUS]


@pytest.fixture(scope="module")
def seeded(stack: Any) -> str:
    """A run that holds a lock and has everything that a run can show, for as long as these tests take."""
    stack("run", "--name", "seed-failed", "exit 4")
    stack.ok("run", "--label", "team=core", "echo fine")
    found: str = stack.ok(
        "submit", "--name", "seed-runs", "--lock", "seed-lock", "--label", "a=b", "echo out; sleep 100"
    ).strip()
    stack.ok("submit", "--name", "seed-waits", "--lock", "seed-lock", "true")
    stack.wait_until(lambda: stack.status(found)["state"] == "RUNNING")
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(new_context: Any, sign_in: Any, seeded: str, axe: str, scheme: str) -> None:
    page = new_context(color_scheme=scheme, reduced_motion="reduce", timezone_id="Asia/Kabul").new_page()
    page.goto("about:blank")
    sign_in(page)
    root = page.url.partition("?")[0]
    expect(page.locator("table.runs tbody tr").first).to_be_visible()
    found = {"runs": findings(page, axe)}
    for name in ("locks", "new", "access"):
        page.goto(f"{root}?view={name}")
        expect(page.locator("main h1").first).to_be_visible()
        page.wait_for_load_state("networkidle")
        found[name] = findings(page, axe)
    page.goto(f"{root}?execution_id={seeded}")
    expect(page.locator("aside dl").first).to_be_visible()
    found["run"] = findings(page, axe)
    page.get_by_role("button", name="Kill").click()
    found["dialog"] = findings(page, axe)
    assert {name: what for name, what in found.items() if what} == {}


def test_first_use_is_for_everybody_too(page: Any, origin: str, axe: str) -> None:
    page.goto(origin)
    expect(page.get_by_label("API key or claim token")).to_be_focused()
    assert findings(page, axe) == []


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_shows_every_page_without_scrolling_sideways(
    new_context: Any, sign_in: Any, seeded: str, width: int
) -> None:
    page = new_context(viewport={"width": width, "height": 780}, has_touch=True, timezone_id="Asia/Kabul").new_page()
    sign_in(page)
    root = page.url.partition("?")[0]
    for query in ("", "?view=locks", "?view=new", "?view=access", f"?execution_id={seeded}"):
        page.goto(root + query)
        page.locator("main h1").first.wait_for(state="attached")
        expect(page.locator("main")).not_to_have_text("")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, query
    page.goto(root)
    page.get_by_role("link", name=re.compile("seed-runs")).tap()
    expect(page.locator(".run-head")).to_contain_text("Running")


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_has_room_for_every_button_of_the_log(new_context: Any, sign_in: Any, seeded: str, width: int) -> None:
    page = sign_in(new_context(viewport={"width": width, "height": 640}, timezone_id="Asia/Kabul").new_page())
    for link in page.get_by_role("navigation").get_by_role("link").all():
        words = "(one) => { const all = document.createRange(); all.selectNodeContents(one); return all.getClientRects().length }"
        assert link.evaluate(words) == 1, "the names of pages stand in one line each"
    page.goto(page.url.partition("?")[0] + f"?execution_id={seeded}")
    expect(page.locator(".rv-row").first).to_be_visible()
    page.locator(".rv-field").fill("e")
    expect(page.locator(".rv-count")).not_to_be_empty()
    bar = page.locator(".rv-bar").bounding_box()
    for button in page.locator(".rv-bar button:visible").all():
        box = button.bounding_box()
        assert bar["x"] <= box["x"]
        assert box["x"] + box["width"] <= bar["x"] + bar["width"], button.get_attribute("aria-label")


def test_what_is_pressed_or_current_is_seen_in_the_reader_s_own_colours(
    new_context: Any, sign_in: Any, seeded: str
) -> None:
    page = sign_in(new_context(forced_colors="active").new_page())
    style = "(one, name) => getComputedStyle(one)[name]"
    current, other = (page.get_by_role("link", name=name, exact=True) for name in ("Runs", "Locks"))
    assert current.evaluate(style, "borderBottomWidth") != other.evaluate(style, "borderBottomWidth")
    page.goto(page.url.partition("?")[0] + f"?execution_id={seeded}")
    pressed, released = page.get_by_label("Line numbers (l)"), page.get_by_label("Wrap long lines (w)")
    expect(pressed).to_have_attribute("aria-pressed", "true")
    assert pressed.evaluate(style, "backgroundColor") != released.evaluate(style, "backgroundColor")


def test_everything_is_reached_by_the_keyboard_alone(page: Any, origin: str, stack: Any, seeded: str) -> None:
    page.goto(origin)
    expect(page.get_by_label("API key or claim token")).to_be_focused()
    page.keyboard.insert_text((stack.home / "local" / "api_key").read_text().strip())
    page.keyboard.press("Enter")
    expect(page.get_by_role("table", name="Runs")).to_be_visible()
    expect(page.locator("table.runs tbody tr").first).to_be_visible()
    page.keyboard.press("j")
    expect(page.locator("a.command").first).to_be_focused()
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("/")
    expect(page.get_by_label("Filter by text")).to_be_focused()
    page.keyboard.type("seed-runs")
    expect(page.locator("table.runs tbody tr")).to_have_count(1)
    _tab_to(page, "a.command")
    page.keyboard.press("Enter")
    expect(page.locator(".run-head")).to_contain_text("Running")
    _tab_to(page, "[data-action=kill]")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.locator("[data-action=kill]")).to_be_focused()
    page.keyboard.press("n")
    page.keyboard.type("echo typed")
    _tab_to(page, "button.primary")
    page.keyboard.press("Enter")
    expect(page.locator(".run-head")).to_contain_text("Succeeded")
    page.keyboard.press("u")
    expect(page.get_by_role("table", name="Runs")).to_be_visible()


def _tab_to(page: Any, selector: str) -> None:
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"Tab never comes to {selector}")


@pytest.mark.parametrize(
    ("taken", "told"),
    [
        (
            "if (crypto.subtle) crypto.subtle.generateKey = () => Promise.reject(new Error('no such algorithm.'))",
            "no such algorithm.",
        ),
        ("indexedDB.open = () => { throw new Error('a private window.'); }", "a private window."),
    ],
)
def test_a_browser_that_cannot_hold_a_key_says_what_it_lacks(
    new_context: Any, origin: str, taken: str, told: str
) -> None:
    context = new_context()
    context.add_init_script(taken)
    page = context.new_page()
    page.goto(origin)
    expect(page.get_by_role("alert")).to_contain_text(told)


def test_nothing_moves_for_who_asked_for_that(new_context: Any, sign_in: Any, seeded: str) -> None:
    page = sign_in(new_context(reduced_motion="reduce").new_page())
    spinner = page.get_by_role("row").filter(has_text="seed-runs").locator(".spins").first
    assert spinner.evaluate("(icon) => getComputedStyle(icon).animationName") == "none"


def test_it_comes_back_by_itself_when_the_network_does(viewer: Any, stack: Any, watched: Any) -> None:
    watched.expect("ERR_INTERNET_DISCONNECTED")
    execution_id = stack.ok("submit", "--name", "through-the-dark", "sleep 3; exit 5").strip()
    viewer.goto(viewer.url.partition("?")[0] + f"?execution_id={execution_id}")
    expect(viewer.locator(".run-head")).to_contain_text("Running")
    viewer.context.set_offline(True)
    expect(viewer.get_by_role("alert")).to_contain_text("No answer from 127.0.0.1")
    expect(viewer.get_by_role("alert").locator("time")).to_have_text(re.compile(r"\d\d:\d\d:\d\d UTC"))
    # It takes its room from the log: what is below it stays in view.
    assert viewer.evaluate("document.documentElement.scrollHeight <= innerHeight")
    assert viewer.locator("header.top").bounding_box()["height"] == 48
    stack.wait_until(lambda: stack.status(execution_id)["state"] == "FAILED")
    viewer.context.set_offline(False)
    expect(viewer.locator(".run-head")).to_contain_text("exit code 5")
    expect(viewer.get_by_role("alert")).to_have_count(0)
    viewer.get_by_role("link", name="Runs").click()
    viewer.context.set_offline(True)
    expect(viewer.get_by_role("alert")).to_contain_text("No answer")
    viewer.context.set_offline(False)
    expect(viewer.get_by_role("alert")).to_have_count(0)


REACHED = """async () => {
  const { Client } = await import("/web/api.js");
  const client = new Client({ deploymentId: "d", endpoint: location.origin });
  await client.read(location.href);
  const answered = client.reachedAt;
  await new Promise((resolve) => setTimeout(resolve, 50));
  client.lost(new TypeError("nobody answers"));
  return [client.isLost, client.reachedAt === answered, client.now() > answered];
}"""


def test_what_is_shown_is_as_old_as_the_last_answer_and_not_as_the_failure_after_it(module_page: Any) -> None:
    assert module_page.evaluate(REACHED) == [True, True, True]


@pytest.mark.parametrize("minutes", [-90, 90])
def test_a_clock_that_is_off_is_allowed_for(new_context: Any, sign_in: Any, watched: Any, minutes: int) -> None:
    watched.expect("401")
    context = new_context()
    context.add_init_script(f"{{ const now = Date.now; Date.now = () => now() + {minutes * 60_000}; }}")
    page = sign_in(context.new_page())
    page.keyboard.press("n")
    page.get_by_label("Command", exact=True).fill("echo on time")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator(".run-head")).to_contain_text("Succeeded")
    page.goto(page.url.partition("?")[0] + "?view=access")
    expect(page.get_by_text(re.compile(rf"{abs(minutes) * 60}|{abs(minutes) * 60 - 1} s"))).to_be_visible()


def test_the_policy_is_kept_by_the_browser_not_by_the_page(viewer: Any, watched: Any) -> None:
    """What would be a hole elsewhere is refused here, whoever writes it: markup from text, scripts of text, other hosts."""
    watched.expect("policy violated")
    watched.expect("Content Security Policy")
    watched.expect("Trusted")
    tried = viewer.evaluate(
        """async () => {
          const attempt = async (act) => { try { await act(); return "done"; } catch (error) { return error.name; } };
          const script = () => { const made = document.createElement("script"); made.textContent = "window.hole = 1";
                                 document.head.append(made); };
          const inline = () => document.body.setAttribute("onclick", "window.hole = 1");
          return { markup: await attempt(() => { document.body.innerHTML = "<b>x</b>"; }),
                   script: await attempt(script), inline: await attempt(inline),
                   policy: await attempt(() => trustedTypes.createPolicy("mine", { createHTML: (text) => text })),
                   elsewhere: await attempt(() => fetch("https://example.com/")), hole: window.hole ?? null };
        }"""
    )
    assert tried["hole"] is None
    assert {tried["markup"], tried["policy"], tried["elsewhere"]} == {"TypeError"}


def test_it_is_used_within_no_other_page(new_context: Any, static_site: Any, origin: str, watched: Any) -> None:
    """A deployment has the browser frame nothing. Where a plain server hands the files out the page itself refuses, also to take
    the token that whoever frames it may put into its address."""
    watched.expect("frame")
    address, folder = static_site
    frames = f'<iframe src="{origin}/"></iframe><iframe src="{address}/web/index.html#claim=rvc1_x"></iframe>'
    (folder / "frames.html").write_text(f"<!doctype html><title>frames</title><link rel=icon href=data:,>{frames}")
    page = new_context().new_page()
    page.goto(f"{address}/frames.html")
    served, own = page.frame_locator("iframe").nth(0), page.frame_locator("iframe").nth(1)
    expect(own.get_by_role("alert")).to_contain_text("The viewer is not shown within another page.")
    own.locator("body").evaluate("() => { location.hash = '#claim=rvc1_y' }")
    expect(own.get_by_role("alert")).to_contain_text("The viewer is not shown within another page.")
    assert own.get_by_role("heading").count() == own.get_by_role("button").count() == 0
    assert served.locator("#view").count() == 0


def test_a_page_of_another_origin_calls_only_where_it_was_named(
    new_context: Callable[..., Any], static_site: Any, origin: str, watched: Any
) -> None:
    watched.expect("CORS")
    watched.expect("403")
    watched.expect("ERR_FAILED")
    address, folder = static_site
    (folder / "other.html").write_text("<!doctype html><title>other</title><link rel=icon href=data:,>")
    page = new_context().new_page()
    page.goto(f"{address}/other.html")
    ask = "async (url) => { try { return (await fetch(url)).status; } catch (error) { return error.name; } }"
    assert page.evaluate(ask, f"{origin}/api/v1/health") == "TypeError"
