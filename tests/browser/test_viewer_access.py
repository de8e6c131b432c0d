"""First use, handing over, claiming and forgetting: how a browser comes to a key, and what is left of one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from playwright.sync_api import expect

LEFT = """async () => {
  const databases = await indexedDB.databases();
  const open = (name) => new Promise((done) => { const r = indexedDB.open(name); r.onsuccess = () => done(r.result); });
  const kept = [];
  for (const { name } of databases) {
    const database = await open(name);
    for (const store of database.objectStoreNames) {
      const values = await new Promise((done) => {
        const r = database.transaction(store).objectStore(store).getAll(); r.onsuccess = () => done(r.result); });
      kept.push(...values);
    }
    database.close();
  }
  let exported = null;
  for (const one of kept) {
    try { exported = await crypto.subtle.exportKey("pkcs8", one.privateKey); } catch (error) { exported = error.name; }
  }
  return { kept: kept.length, exported, local: JSON.stringify(localStorage), session: JSON.stringify(sessionStorage),
           cookies: document.cookie, html: document.documentElement.outerHTML, address: location.href,
           fields: [...document.querySelectorAll("input")].map((input) => input.value) };
}"""


def test_a_key_is_asked_for_once_and_its_text_forgotten(page: Any, sign_in: Callable[..., Any], stack: Any) -> None:
    sign_in(page)
    left = page.evaluate(LEFT)
    assert left["kept"] == 1
    assert left["exported"] == "InvalidAccessError"
    api_key = (stack.home / "local" / "api_key").read_text().strip()
    assert api_key not in json.dumps(left)
    page.reload()
    expect(page.get_by_role("table", name="Runs")).to_be_visible()


def test_what_is_no_key_is_told_and_can_be_mended(page: Any, origin: str, stack: Any) -> None:
    page.goto(origin)
    field = page.get_by_label("API key or claim token")
    expect(page.get_by_label("Endpoint")).to_have_value(origin)
    field.fill("rvk1_" + "A" * 48)
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("checksum does not match")
    expect(field).to_have_value("")
    field.fill((stack.home / "local" / "api_key").read_text())
    page.keyboard.press("Enter")
    expect(page.get_by_role("table", name="Runs")).to_be_visible()


def test_a_key_of_nobody_is_refused_and_not_kept(page: Any, origin: str, watched: Any) -> None:
    from runvoy_protocol.keys import SigningKey

    watched.expect("401")
    page.goto(origin)
    page.get_by_label("API key or claim token").fill(SigningKey(b"n" * 32).to_api_key())
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("KEY_UNKNOWN")
    page.reload()
    expect(page.get_by_label("API key or claim token")).to_be_visible()
    assert page.evaluate(LEFT)["kept"] == 0


def test_the_command_line_hands_a_browser_over(new_context: Callable[..., Any], stack: Any, watched: Any) -> None:
    link = stack.ok("web", "--no-open").strip()
    page = new_context().new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url + str(request.headers)))
    page.goto(link)
    assert "claim" not in page.url
    expect(page.get_by_text("It will act as")).to_contain_text(f"at 127.0.0.1:{stack.endpoint()['port']}.")
    page.get_by_role("button", name=re.compile("^Continue as ")).click()
    expect(page.get_by_role("table", name="Runs")).to_be_visible()
    token = link.partition("#claim=")[2]
    assert not any(token in request for request in requests)
    key = next(key for key in json.loads(stack.ok("keys", "list", "--json")) if key["name"].startswith("browser on "))
    assert key["expires_at"]
    # The link is good once, and a browser that is set up already needs none.
    watched.expect("404")
    page.goto("about:blank")
    page.goto(link)
    expect(page.get_by_role("table", name="Runs")).to_be_visible()
    other = new_context().new_page()
    other.goto(link)
    expect(other.get_by_role("heading", name="This link is not good any more")).to_be_visible()


def test_a_link_leads_to_the_run_it_names(page: Any, stack: Any) -> None:
    execution_id = stack.ok("submit", "echo linked").strip()
    page.goto(stack.ok("web", "--no-open", execution_id).strip())
    page.get_by_role("button", name=re.compile("^Continue as ")).click()
    expect(page.get_by_role("heading", name="echo linked")).to_be_visible()
    assert page.url.endswith(f"?execution_id={execution_id}")


def test_who_says_no_to_a_link_stays_nobody(page: Any, stack: Any) -> None:
    page.goto(stack.ok("web", "--no-open").strip())
    page.get_by_role("button", name="No").click()
    expect(page.get_by_label("API key or claim token")).to_be_visible()
    assert page.evaluate(LEFT)["kept"] == 0


def test_a_colleague_claims_a_token_in_the_page(page: Any, origin: str, stack: Any) -> None:
    token = stack.ok("users", "create", "ada@example.com", "--role", "viewer").strip()
    page.goto(origin)
    page.get_by_label("API key or claim token").fill(token)
    page.get_by_role("button", name="Use it").click()
    expect(page.get_by_role("link", name="ada@example.com")).to_be_visible()
    # A viewer is offered nothing that a viewer may not do.
    expect(page.get_by_role("link", name="New run")).to_have_count(0)


def test_forgetting_revokes_the_browser_s_own_key(page: Any, stack: Any) -> None:
    page.goto(stack.ok("web", "--no-open").strip())
    page.get_by_role("button", name=re.compile("^Continue as ")).click()
    page.get_by_role("table", name="Runs").wait_for()
    page.goto(page.url.partition("?")[0] + "?view=access")
    page.get_by_label("Colours").select_option("dark")
    key_id = page.locator("code").first.inner_text()
    page.get_by_role("button", name="Forget this browser").click()
    page.get_by_role("dialog").get_by_role("button", name="Forget").click()
    expect(page.get_by_label("API key or claim token")).to_be_visible()
    left = page.evaluate(LEFT)
    assert (left["kept"], left["local"]) == (0, "{}")
    keys = {key["key_id"]: key for key in json.loads(stack.ok("keys", "list", "--json"))}
    assert keys[key_id]["revoked_at"]


def test_a_revoked_key_is_told_with_the_way_back(page: Any, stack: Any, watched: Any) -> None:
    watched.expect("401")
    page.goto(stack.ok("web", "--no-open").strip())
    page.get_by_role("button", name=re.compile("^Continue as ")).click()
    page.get_by_role("table", name="Runs").wait_for()
    newest = json.loads(stack.ok("keys", "list", "--json"))[-1]
    stack.ok("keys", "revoke", newest["key_id"])
    expect(page.get_by_role("alert")).to_contain_text("This browser's key was revoked.")
    page.goto(f"{page.url.partition('?')[0]}?execution_id={'0' * 32}")
    expect(page.get_by_role("alert")).to_contain_text("This browser's key was revoked.")
    expect(page.get_by_label("About this run")).to_be_hidden()
    # A new link mends it, though a key is here.
    page.goto("about:blank")
    page.goto(stack.ok("web", "--no-open").strip())
    page.get_by_role("button", name=re.compile("^Continue as ")).click()
    expect(page.get_by_role("table", name="Runs")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
