"""Playbooks in the page: chosen, filled in, tried out and run; and who sees which."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from tests.browser.test_viewer_people import findings

from runvoy_cli.playbooks import compiling, reader
from runvoy_protocol import envelope, requests
from runvoy_protocol.playbooks import pin
from runvoy_protocol.requests import RunRequest

DOCS = Path(__file__).parents[2] / "docs" / "playbooks"
GREET = """\
description: Greet somebody
locks: [greeting]
timeout: 1m
env: {GREETING: "hello ${{ who }}", TOOL: printf}
labels: {stage: "on ${{ stage }}"}
parameters:
  who: {description: Whom to greet}
  stage: {enum: [test, prod]}
  copies: {type: int, default: 2}
  version: {pattern: "[a-z0-9.]{1,8}", required: false}
  loud: {type: bool, default: false}
  sure: {type: bool}
  token: {secret: true, required: false}
commands:
  - printf '%s\\n' "$GREETING" "${{ who }}" "$PARAM_STAGE $PARAM_COPIES $PARAM_LOUD $PARAM_SURE [$PARAM_VERSION]"
  - [printf, '%s\\n', "it's done"]
"""


@pytest.fixture(scope="module")
def project(stack: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with one playbook that this machine can run and the examples, published; the page of others is left as it was."""
    folder: Path = tmp_path_factory.mktemp("shop")
    (folder / ".runvoy").mkdir()
    (folder / ".runvoy" / "greet.yml").write_text(GREET)
    for path in [*DOCS.glob("*.yml")]:
        (folder / ".runvoy" / path.name).write_bytes(path.read_bytes())
    stack.ok("playbook", "publish", cwd=folder)
    yield folder
    stack.ok("playbook", "publish", "--remove")


@pytest.fixture
def page_of(origin: str) -> Callable[[Any, str], Any]:
    def act(page: Any, name: str) -> Any:
        page.goto(f"{origin}/?view=new&playbook={name}")
        page.get_by_role("list", name="Playbooks").wait_for()
        return page

    return act


def sent_by(page: Any, act: Callable[[], object]) -> RunRequest:
    """The run request that the page uploads while `act` is done."""
    with page.expect_request(
        lambda request: request.method == "POST" and b"filename=" in (request.post_data_buffer or b"")
    ) as told:
        act()
    body = told.value.post_data_buffer
    raw = body[body.index(b"\r\n\r\n", body.index(b'name="file"')) + 4 : body.rindex(b"\r\n--")]
    sealed = envelope.parse(raw, envelope.PayloadType.RUN_REQUEST)
    return requests.decode(sealed.payload)


def test_choose_fill_try_out_and_run(viewer: Any, stack: Any, project: Path) -> None:
    viewer.get_by_role("link", name="New run").click()
    viewer.get_by_role("link", name="A playbook").click()
    viewer.get_by_role("link", name="greet").click()
    assert "playbook=greet" in viewer.url
    form = viewer.get_by_role("form", name="Playbook greet")
    expect(viewer.get_by_text(re.compile(r"^Published .* from .*:.*shop"))).to_be_visible()
    fixes = viewer.get_by_role("region", name="What it fixes")
    for text in ("greeting", "1m 00s", "TOOL=printf", "stage=on ${{ stage }}"):
        expect(fixes).to_contain_text(text)
    expect(viewer.get_by_label("Command 2")).to_have_text("exec printf '%s\\n' 'it'\"'\"'s done'")
    expect(form.get_by_label("who")).to_be_focused()
    form.get_by_label("who").fill("the world")
    form.get_by_label("stage").select_option("prod")
    form.get_by_label("loud").check()
    form.get_by_label("sure").select_option("true")
    form.get_by_role("button", name="Dry run").click()
    expect(form.get_by_text("It would be accepted, and start.")).to_be_visible()
    made = sent_by(viewer, form.get_by_role("button", name="Run", exact=True).click)
    expect(viewer.locator(".pill.big")).to_contain_text("Succeeded")
    expect(viewer.locator(".run-title")).to_have_text("playbook greet")
    expect(viewer.get_by_text("the world", exact=True)).to_be_visible()
    expect(viewer.get_by_text("prod 2 true true []", exact=True)).to_be_visible()
    params = [f"--param={text}" for text in ("who=the world", "stage=prod", "loud=true", "sure=true")]
    told = json.loads(stack.ok("playbook", "run", "greet", *params, "--dry-run", "--json", cwd=project))
    assert told["env"].pop("PARAM_TOKEN") is None  # not told, since it is secret
    assert made.env == {**told["env"], "PARAM_TOKEN": ""}
    for field in ("labels", "locks", "secrets", "timeout_seconds", "image", "name", "if_locked"):
        assert json.loads(json.dumps(getattr(made, field))) == told[field], field
    shown = json.loads(stack.ok("playbook", "show", "greet", "--json", cwd=project))
    variables = [one["variable"] for one in shown["parameters"]]
    assert requests.playbook_digest(made, variables) == shown["digest"]


def again(viewer: Any, stack: Any, project: Path, *options: str, **params: str) -> None:
    """Press Run again on the page of a call from the command line."""
    given = [f"--param={name}={value}" for name, value in params.items()]
    stack.ok("playbook", "run", "greet", *given, *options, cwd=project)
    found = json.loads(stack.ok("list", "--limit", "1", "--json"))[0]["execution_id"]
    viewer.goto(f"{viewer.url.partition('?')[0]}?execution_id={found}")
    viewer.get_by_role("button", name="Run again").click()


def test_run_again_of_a_call_is_the_playbook_s_form_without_its_secrets(viewer: Any, stack: Any, project: Path) -> None:
    params = {
        "who": "one\ntwo",
        "stage": "prod",
        "copies": "3",
        "loud": "true",
        "sure": "false",
        "token": "s3cret-again",
    }
    again(viewer, stack, project, "--if-locked", "fail", **params)
    form = viewer.get_by_role("form", name="Playbook greet")
    expect(form.get_by_label("who")).to_have_value(params["who"])
    expect(form.get_by_label("stage")).to_have_value("prod")
    expect(form.get_by_label("copies")).to_have_value("3")
    expect(form.get_by_label("loud")).to_be_checked()
    expect(form.get_by_label("sure")).to_have_value("false")
    expect(form.get_by_label("token")).to_have_value("")
    expect(form.get_by_label("If a lock is held")).to_have_value("fail")
    expect(viewer.locator(".note")).to_contain_text("to be typed again: token.")
    expect(viewer.locator(".note")).not_to_contain_text("of its own")
    assert "s3cret" not in viewer.content()
    form.get_by_label("token").fill("another")
    made = sent_by(viewer, form.get_by_role("button", name="Run", exact=True).click)
    assert {name: made.env[f"PARAM_{name.upper()}"] for name in params} == {**params, "token": "another"}
    expect(viewer.locator(".pill.big")).to_contain_text("Succeeded")
    viewer.goto(f"{viewer.url.partition('?')[0]}?view=new&playbook=greet")
    expect(form.get_by_label("who")).to_have_value("")


def test_run_again_of_a_call_says_what_the_playbook_s_form_has_not(viewer: Any, stack: Any, project: Path) -> None:
    again(viewer, stack, project, "--label", "a=b", "--name", "mine", who="a", stage="test", sure="true")
    expect(viewer.locator(".note")).to_contain_text("It had labels, a name of its own")
    expect(viewer.locator(".note")).not_to_contain_text("typed again")
    viewer.get_by_role("link", name="Runs").click()
    expect(viewer.locator(".command").first).to_have_text("mine playbook greet")


@pytest.mark.parametrize("options", [("--timeout", "9m"), ("--env", "MORE=1")])
def test_run_again_of_a_call_that_runs_something_else_is_a_run_of_its_own(
    viewer: Any, stack: Any, project: Path, options: tuple[str, ...]
) -> None:
    again(viewer, stack, project, *options, who="a", stage="test", sure="true")
    expect(viewer.locator(".note")).to_contain_text("It was a call of the playbook greet.")
    assert "PARAM_WHO=a" in viewer.get_by_label("Variables").input_value()


def test_bad_values_are_told_at_their_fields(viewer: Any, project: Path, page_of: Any) -> None:
    form = page_of(viewer, "greet").get_by_role("form", name="Playbook greet")
    form.get_by_label("copies").fill("1.5")
    form.get_by_label("version").fill("NOT")
    form.get_by_role("button", name="Run", exact=True).click()
    for label, words in (
        ("who", "The parameter who is needed."),
        ("stage", "The parameter stage is needed: it must be test or prod."),
        ("copies", "The parameter copies must be a whole number such as 42 or -1, of 18 digits at most."),
        ("version", "The parameter version must match [a-z0-9.]{1,8} as a whole."),
        ("sure", "The parameter sure is needed: it must be true or false."),
    ):
        field = form.get_by_label(label)
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(field).to_have_accessible_description(re.compile(re.escape(words)))
    expect(form.get_by_label("who")).to_be_focused()
    assert "view=new" in viewer.url
    form.get_by_label("version").fill("v1.2")
    expect(form.get_by_text("The parameter version")).to_be_hidden()
    expect(form.get_by_label("version")).not_to_have_attribute("aria-invalid", "true")


def test_a_key_limited_to_a_playbook_sees_and_runs_it(
    page: Any, watched: Any, stack: Any, project: Path, sign_in: Any, page_of: Any
) -> None:
    watched.expect("/api/v1/cost")  # which a limited key is not told
    made = json.loads(stack.ok("keys", "create", "--only-playbook", "greet", "--json", cwd=project))
    page_of(sign_in(page, made["api_key"]), "")
    expect(page.get_by_role("list", name="Playbooks").get_by_role("link")).to_have_count(1)
    form = page.get_by_role("form", name="Playbook greet")  # the only one is chosen
    form.get_by_label("who").fill("limits")
    form.get_by_label("stage").select_option("test")
    form.get_by_label("sure").select_option("false")
    form.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator(".pill.big")).to_contain_text("Succeeded")
    # A later version of the playbook is none that the key may run: then there is nothing to choose.
    (project / ".runvoy" / "greet.yml").write_text(GREET.replace("timeout: 1m", "timeout: 2m"))
    try:
        stack.ok("playbook", "publish", "greet", cwd=project)
        page.goto(f"{page.url.partition('?')[0]}?view=new&playbook=greet")
        expect(page.get_by_text("This browser's key is limited")).to_be_visible()
    finally:
        (project / ".runvoy" / "greet.yml").write_text(GREET)
        stack.ok("playbook", "publish", "greet", cwd=project)


def test_a_secret_is_nowhere_but_in_the_request(viewer: Any, project: Path, page_of: Any) -> None:
    form = page_of(viewer, "greet").get_by_role("form", name="Playbook greet")
    form.get_by_label("who").fill("secrets")
    form.get_by_label("stage").select_option("test")
    form.get_by_label("sure").select_option("true")
    token = form.get_by_label("token")
    expect(token).to_have_attribute("type", "password")
    token.fill("s3cret-of-mine")
    with viewer.expect_request("**/dry-run") as told:
        form.get_by_role("button", name="Dry run").click()
    tried = requests.decode(base64.b64decode(json.loads(told.value.post_data)["request"]))
    assert tried.env["PARAM_TOKEN"] == ""
    expect(form.get_by_text("It would be accepted")).to_be_visible()
    made = sent_by(viewer, form.get_by_role("button", name="Run", exact=True).click)
    assert made.env["PARAM_TOKEN"] == "s3cret-of-mine"
    expect(viewer.locator(".pill.big")).to_contain_text("Succeeded")
    kept = viewer.evaluate("JSON.stringify([{ ...localStorage }, { ...sessionStorage }, history.state, location.href])")
    assert "s3cret" not in kept
    assert "secrets" not in kept
    page_of(viewer, "greet")
    expect(viewer.get_by_label("token")).to_have_value("")
    expect(form.get_by_label("who")).to_have_value("")


def test_what_is_pasted_keeps_its_lines(viewer: Any, project: Path, page_of: Any) -> None:
    form = page_of(viewer, "greet").get_by_role("form", name="Playbook greet")
    who = form.get_by_label("who")
    who.fill("a")
    who.evaluate("""(input) => { const data = new DataTransfer(); data.setData("text/plain", "b\\r\\nc");
      input.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true })); }""")
    expect(form.get_by_label("who")).to_have_value("ab\nc")
    expect(form.get_by_label("who")).to_be_focused()
    form.get_by_label("stage").select_option("test")
    form.get_by_label("sure").select_option("true")
    made = sent_by(viewer, form.get_by_role("button", name="Run", exact=True).click)
    assert made.env["PARAM_WHO"] == "ab\nc"


def test_many_are_searched_and_a_link_names_one(
    viewer: Any, stack: Any, project: Path, page_of: Any, tmp_path: Path
) -> None:
    for number in range(4):
        (tmp_path / ".runvoy").mkdir(exist_ok=True)
        (tmp_path / ".runvoy" / f"many-{number}.yml").write_text("commands: ['true']\n")
    stack.ok("playbook", "publish", cwd=tmp_path)
    try:
        links = page_of(viewer, "nonsense").get_by_role("list", name="Playbooks").get_by_role("link")
        expect(links).to_have_count(11)
        expect(viewer.get_by_role("alert")).to_contain_text("There is no published playbook “nonsense”")
        viewer.get_by_label("Search playbooks").fill("greet body")
        expect(links.filter(visible=True)).to_have_count(1)
        viewer.keyboard.press("Tab")
        viewer.keyboard.press("Enter")
        expect(viewer.get_by_role("form", name="Playbook greet")).to_be_visible()
        page_of(viewer, "many-2")
        expect(viewer.get_by_role("form", name="Playbook many-2")).to_contain_text("It has no parameters.")
        expect(links.filter(has_text="many-2")).to_have_attribute("aria-current", "true")
    finally:
        stack.ok("playbook", "publish", "--remove", *(f"many-{number}" for number in range(4)))


def test_where_nothing_is_published_it_is_told_how(
    page: Any, stack: Any, sign_in: Any, origin: str, tmp_path: Path
) -> None:
    token = stack.ok("users", "create", "dora@example.com", "--role", "developer").strip()
    other = {"RUNVOY_HOME": str(tmp_path / "dora")}
    stack.ok("claim", token, env=other)
    key = re.search(r"rvk1_\S+", (tmp_path / "dora" / "config.yaml").read_text())
    assert key is not None
    sign_in(page, key[0].strip("\"'"))
    page.goto(f"{origin}/?view=new&playbook=")
    expect(page.get_by_text("No playbooks are published to your browsers")).to_be_visible()
    expect(page.locator("pre")).to_have_text("runvoy web")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(
    new_context: Any, sign_in: Any, project: Path, page_of: Any, axe: str, scheme: str
) -> None:
    page = sign_in(new_context(color_scheme=scheme, reduced_motion="reduce").new_page())
    page_of(page, "")
    found = {"list": findings(page, axe)}
    page_of(page, "greet")
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("The whole script").click()
    found["wrong"] = findings(page, axe)
    assert {name: what for name, what in found.items() if what} == {}


def test_a_phone_has_room_for_it(new_context: Any, sign_in: Any, project: Path, page_of: Any) -> None:
    page = sign_in(new_context(viewport={"width": 360, "height": 740}).new_page())
    page_of(page, "terraform")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_digest_is_told_that_is_the_command_line_s(viewer: Any, project: Path, page_of: Any) -> None:
    playbook = reader.read("greet", Path("greet.yml"), GREET)
    page_of(viewer, "greet")
    expect(viewer.get_by_title(pin(compiling.compiled(playbook)).digest)).to_be_visible()
