"""Letters that a field does not show are told of beside it, before anybody signs them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from tests.browser.test_viewer_people import findings
from tests.browser.test_viewer_playbooks import sent_by

HIDDEN = "echo safe\u202e # \u200b"
EMOJI = "echo \U0001f469\u200d\U0001f680 \u2764\ufe0f\u200d\U0001f525 1\ufe0f\u20e3 \u0645\u06cc\u200c\u062e"

UNSEEN_IN = """async (texts) => {
  const { plain, unseenIn, withoutUnseen } = await import("/web/unseen.js");
  return texts.map((text) => ({ ...unseenIn(text), plain: plain(text), without: withoutUnseen(text) }));
}"""


def note(page: Any, label: str) -> Any:
    return page.locator(".field", has=page.get_by_label(label, exact=True)).locator(".unseen")


def paste(page: Any, field: Any, text: str) -> None:
    field.focus()
    page.keyboard.insert_text(text)


def test_what_is_unseen_is_told_and_what_joins_emoji_and_letters_is_not(module_page: Any) -> None:
    texts = [HIDDEN, EMOJI, "a\tb\nc", "rm\u200d -rf\ufe0f", "\U0001f600\ufe0f\ufe01", "x" * 99 + "\x1b[0m" + "y" * 999]
    hidden, emoji, white, joined, twice, long = module_page.evaluate(UNSEEN_IN, texts)
    assert hidden == {
        "count": 2,
        "words": "\\u202e turns letters around, \\u200b has no width",
        "excerpt": "echo safe\\u202e # \\u200b",
        "plain": "echo safe\\u202e # \\u200b",
        "without": "echo safe # ",
    }
    assert emoji == {"plain": EMOJI, "without": EMOJI}
    assert white == {"plain": "a\tb\nc", "without": "a\tb\nc"}
    assert joined["plain"] == "rm\\u200d -rf\\ufe0f"
    assert twice["plain"] == "\U0001f600\ufe0f\\ufe01"
    assert long["words"] == "\\u001b is a control character"
    assert long["excerpt"].startswith("…xxx")
    assert len(long["excerpt"]) < 130


WALES = "\U0001f3f4" + "".join(chr(0xE0000 + ord(letter)) for letter in "gbwls") + "\U000e007f"
ORDINARY = (
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f9d1\U0001f3fd\u200d\u2695\ufe0f #\ufe0f\u20e3 \u2122\ufe0f",
    f"{WALES}{WALES}",
    "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd",  # Hebrew, with its points
    "\u0627\u0644\u0633\u0651\u064e\u0644\u064e\u0627\u0645 \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Arabic, Persian
    "\u0915\u094d\u200d\u0937 \u0d28\u0d4d\u200d \u0dc1\u0dca\u200d\u0dbb\u0dd3",  # Hindi, Malayalam, Sinhala
    "\u182d\u180e\u1820 \u1824\u182d\u1821\u180b",  # Mongolian
    "\u845b\U000e0100",  # a form of a Han character
)
HIDING = (
    WALES[:-1],
    f"{WALES}\U000e0061",
    WALES[1:],
    "a\u180b",
    "\U0001f3f4\U000e0072\U000e006d\U000e007f",
    "\u0645\u200c\u200c",
)


def test_no_language_and_no_emoji_is_warned_of(module_page: Any) -> None:
    for text, found in zip(ORDINARY, module_page.evaluate(UNSEEN_IN, ORDINARY), strict=True):
        assert found == {"plain": text, "without": text}
    (cut,) = module_page.evaluate(UNSEEN_IN, ["a\U0001f468\u200d" + 39 * "y" + "\u200b"])
    assert (cut["count"], cut["excerpt"]) == (1, "…\u200d" + 39 * "y" + "\\u200b")
    for text, found in zip(HIDING, module_page.evaluate(UNSEEN_IN, HIDING), strict=True):
        assert found["count"], text


def test_a_pasted_command_is_warned_of_at_its_field_and_asked_about_before_it_is_signed(viewer: Any, axe: str) -> None:
    viewer.goto(viewer.url.partition("?")[0] + "?view=new")
    command = viewer.get_by_label("Command", exact=True)
    paste(viewer, command, HIDDEN)
    expect(note(viewer, "Command")).to_contain_text("2 characters here cannot be seen: \\u202e turns letters around")
    expect(note(viewer, "Command")).to_contain_text("It reads: echo safe\\u202e # \\u200b")
    expect(viewer.locator("#live")).to_contain_text("2 characters here cannot be seen")
    expect(command).to_have_accessible_description(re.compile(r"cannot be seen.*echo safe\\u202e"))
    paste(viewer, viewer.get_by_label("Name"), "a\u2066b")
    assert findings(viewer, axe) == []
    uploads: list[Any] = []
    viewer.on(
        "request",
        lambda request: uploads.append(request) if request.method == "POST" and "/inbox" in request.url else None,
    )
    viewer.get_by_role("button", name="Run", exact=True).click()
    expect(viewer.get_by_role("dialog")).to_contain_text(
        "What stands in Command, Name has characters that cannot be seen"
    )
    viewer.keyboard.press("Escape")
    expect(command).to_be_focused()
    assert uploads == []
    note(viewer, "Command").get_by_role("button", name="Take them out").click()
    expect(command).to_have_value("echo safe # ")
    expect(command).to_be_focused()
    expect(note(viewer, "Command")).to_be_hidden()
    note(viewer, "Name").get_by_role("button", name="Take it out").click()
    sent = sent_by(viewer, lambda: viewer.get_by_role("button", name="Run", exact=True).click())
    assert (sent.command, sent.name) == ("echo safe # ", "ab")


def test_run_again_warns_of_what_was_signed_and_sends_it_where_one_says_so(viewer: Any, stack: Any) -> None:
    execution_id = stack.ok("submit", "--env", "GREETING=a\u200bb", HIDDEN).strip()
    viewer.goto(viewer.url.partition("?")[0] + f"?execution_id={execution_id}")
    viewer.get_by_role("button", name="Run again").click()
    expect(note(viewer, "Command")).to_contain_text("2 characters here cannot be seen")
    expect(note(viewer, "Variables")).to_contain_text("GREETING=a\\u200bb")
    viewer.get_by_role("button", name="Run", exact=True).click()
    act = viewer.get_by_role("button", name="Run it all the same").click
    sent = sent_by(viewer, act)
    assert (sent.command, sent.env) == (HIDDEN, {"GREETING": "a\u200bb"})


@pytest.fixture(scope="module")
def greeter(stack: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder: Path = tmp_path_factory.mktemp("greeter")
    (folder / ".runvoy").mkdir()
    (folder / ".runvoy" / "greeter.yml").write_text(
        "parameters:\n  whom: {required: false}\n  token: {secret: true, required: false}\ncommands: [true]\n"
    )
    stack.ok("playbook", "publish", cwd=folder)
    yield
    stack.ok("playbook", "publish", "--remove")


def test_a_playbook_s_values_are_warned_of_and_secret_ones_not_shown(
    viewer: Any, origin: str, greeter: None, axe: str
) -> None:
    viewer.goto(f"{origin}/?view=new&playbook=greeter")
    who, token = viewer.get_by_label("whom"), viewer.get_by_label("token")
    paste(viewer, who, "ann\u200b")
    paste(viewer, token, "swordfish\ufeff")
    expect(note(viewer, "token")).to_contain_text("One character here cannot be seen: \\ufeff has no width.")
    expect(viewer.locator("main")).not_to_contain_text("swordfish")
    assert findings(viewer, axe) == []
    viewer.get_by_role("button", name="Run", exact=True).click()
    expect(viewer.get_by_role("dialog")).to_contain_text("whom, token")
    viewer.get_by_role("button", name="Cancel").click()
    expect(who).to_be_focused()
    for name in ("whom", "token"):
        note(viewer, name).get_by_role("button", name="Take it out").click()
    sent = sent_by(viewer, lambda: viewer.get_by_role("button", name="Run", exact=True).click())
    assert (sent.env["PARAM_WHOM"], sent.env["PARAM_TOKEN"]) == ("ann", "swordfish")
