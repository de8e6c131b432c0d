"""What was signed and what it was answered, on a run's page; and the form that is filled with it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.sync_api import expect
from tests.browser.test_viewer_playbooks import sent_by
from tests.servers.git_hosts import Repository

VALUE = "correct horse battery"


def signed(stack: Any, execution_id: str, **env: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(stack.ok("status", "--request", execution_id, "--json", **env))
    return found


def part(page: Any, name: str) -> Any:
    return page.locator(f"details[data-part={name}]")


def fact(page: Any, name: str, value: str) -> Any:
    """The value of one row of a part."""
    row = part(page, name).locator("dl > div").filter(has=page.get_by_text(value, exact=True))
    return row.locator("dd")


def open_run(page: Any, execution_id: str) -> None:
    page.goto(f"{page.url.partition('?')[0]}?execution_id={execution_id}")


def shown_id(page: Any) -> str:
    found = re.search("execution_id=([0-9a-f]{32})", page.url)
    assert found
    return found[1]


@pytest.fixture(scope="module")
def secret(stack: Any) -> str:
    from tests.browser.test_viewer_runs import _pipe

    stack.ok("secrets", "create", "again-secret", "AGAIN_SECRET", stdin=_pipe(VALUE.encode()))
    return "again-secret"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return Repository(tmp_path_factory.mktemp("git"))


def test_a_run_s_page_has_its_request_and_its_receipt(viewer: Any, stack: Any, secret: str) -> None:
    options = (
        "--env",
        "STAGE=prod",
        "--env",
        "EMPTY=",
        "--secret",
        secret,
        "--lock",
        "asked-lock",
        "--if-locked",
        "fail",
    )
    execution_id = stack.ok("submit", *options, "--timeout", "90s", "--label", "a=b", "--", "echo", "two words").strip()
    open_run(viewer, execution_id)
    answer = signed(stack, execution_id)
    expect(fact(viewer, "request", "Command")).to_contain_text("echo 'two words'")
    expect(fact(viewer, "request", "Variables").get_by_role("listitem")).to_have_text(["EMPTY=", "STAGE=prod"])
    expect(fact(viewer, "request", "Secrets")).to_have_text(secret)
    expect(fact(viewer, "request", "Locks")).to_have_text("asked-lock")
    expect(fact(viewer, "request", "If held")).to_have_text("refuse the run")
    expect(fact(viewer, "request", "Timeout")).to_have_text("1m 30s")
    expect(fact(viewer, "request", "Signed by")).to_contain_text(answer["key_id"])
    expect(fact(viewer, "request", "Digest")).to_contain_text(answer["content_digest"])
    assert part(viewer, "receipt").get_attribute("open") is None
    part(viewer, "receipt").locator("summary").click()
    expect(fact(viewer, "receipt", "Outcome")).to_have_text("Accepted")
    expect(fact(viewer, "receipt", "Object")).to_contain_text(answer["object_sha256"])
    assert VALUE not in viewer.content()


def test_what_was_closed_stays_closed_and_asks_for_nothing(viewer: Any, stack: Any) -> None:
    asked: list[str] = []
    viewer.on("request", lambda request: asked.append(request.url))
    execution_id = stack.ok("submit", "--env", "A=b", "true").strip()
    open_run(viewer, execution_id)
    part(viewer, "request").locator("summary").click()
    expect(fact(viewer, "request", "Variables")).to_be_hidden()
    asked.clear()
    viewer.reload()
    expect(viewer.locator(".run-head")).to_contain_text("Succeeded")
    expect(viewer.locator(".log-host")).to_contain_text("complete")
    assert not [url for url in asked if url.endswith("/request")]
    part(viewer, "request").locator("summary").click()
    expect(fact(viewer, "request", "Variables")).to_contain_text("A=b")
    assert len([url for url in asked if url.endswith("/request")]) == 1


def test_a_member_of_a_batch_has_its_own(viewer: Any, stack: Any) -> None:
    documents = [{"command": ["echo", str(number)], "env": {"N": str(number)}} for number in range(3)]
    (stack.home / "three.jsonl").write_text("\n".join(json.dumps(one) for one in documents) + "\n")
    first, *_ = stack.ok("submit", "--bulk", str(stack.home / "three.jsonl")).split()
    open_run(viewer, first)
    expect(fact(viewer, "request", "Variables")).to_have_text("N=0")
    expect(fact(viewer, "request", "Batch")).to_contain_text(signed(stack, first)["batch_id"])


def test_a_playbook_s_parameters_are_shown_when_one_asks(viewer: Any, stack: Any) -> None:
    folder = stack.home / "project" / ".runvoy"
    folder.mkdir(parents=True)
    text = "commands: [echo done]\nparameters:\n  pin: {type: string, secret: true}\n"
    (folder / "rotate.yml").write_text(text)
    done = stack("playbook", "run", "rotate", "--param", "pin=1234-5678", cwd=str(folder.parent))
    assert done.returncode == 0, done
    execution_id = json.loads(stack.ok("list", "--limit", "1", "--json"))[0]["execution_id"]
    open_run(viewer, execution_id)
    expect(fact(viewer, "request", "Playbook")).to_have_text("rotate")
    expect(fact(viewer, "request", "Variables")).not_to_contain_text("1234-5678")
    viewer.get_by_role("button", name="Show the value of PARAM_PIN").click()
    expect(fact(viewer, "request", "Variables")).to_contain_text("PARAM_PIN=1234-5678")


def test_a_refused_run_has_both_and_can_be_changed_after_a_reload(viewer: Any, stack: Any) -> None:
    execution_id = stack.ok("submit", "--secret", "nowhere", "--env", "A=b", "--", "echo", "x").strip()
    open_run(viewer, execution_id)
    expect(viewer.locator(".run-head")).to_contain_text("SECRET_NOT_FOUND")
    expect(fact(viewer, "request", "Variables")).to_have_text("A=b")
    expect(fact(viewer, "receipt", "Outcome")).to_have_text("Refused: SECRET_NOT_FOUND")
    viewer.get_by_role("button", name="Change it and try again").click()
    expect(viewer.get_by_label("Secrets")).to_have_value("nowhere")
    viewer.get_by_label("Secrets").fill("")
    viewer.get_by_role("button", name="Run", exact=True).click()
    expect(viewer.locator(".run-head")).to_contain_text("Succeeded")
    assert signed(stack, shown_id(viewer))["request"]["env"] == {"A": "b"}


def test_a_viewer_sees_another_s_run_and_not_its_request(
    new_context: Any, sign_in: Any, stack: Any, tmp_path: Any
) -> None:
    token = stack.ok("users", "create", "vic@example.com", "--role", "viewer").strip()
    other = {"RUNVOY_HOME": str(tmp_path / "vic")}
    stack.ok("claim", token, env=other)
    done = stack("keys", "list", "--json", env=other)
    assert done.returncode == 0, done
    execution_id = stack.ok("submit", "--env", "TOKEN=s3cret-value", "--name", "not-for-vic", "true").strip()
    refused = stack("status", "--request", execution_id, env=other)
    assert refused.returncode == 1
    assert b"FORBIDDEN" in refused.stderr
    page = new_context().new_page()
    config = (tmp_path / "vic" / "config.yaml").read_text()
    found = re.search(r"rvk1_[A-Za-z0-9_-]+", config)
    assert found
    sign_in(page, found[0])
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    open_run(page, execution_id)
    expect(part(page, "request")).to_contain_text("shown to its owner, to operators and to admins")
    expect(page.locator(".run-head")).to_contain_text("not-for-vic")
    assert "s3cret-value" not in page.content()
    assert not [url for url in asked if url.endswith("/request")], "what is sure to be refused is not asked for"


def test_run_again_restores_all_that_was_signed(viewer: Any, stack: Any, secret: str, repository: Repository) -> None:
    git = ("--git-repo", str(repository.bare), "--git-ref", "v1", "--git-path", "envs/prod")
    options = (
        "--env",
        "STAGE=prod",
        "--env",
        "LINES=one\ntwo = 2\n",
        "--secret",
        secret,
        "--lock",
        "r-a",
        "--lock",
        "r-b",
    )
    limits = ("--if-locked", "fail", "--timeout", "90s", "--queue-timeout", "1h", "--isolation", "process")
    words = ("--", "sh", "-c", 'printf "%s\\n" "$LINES"\npwd', "it's")
    execution_id = stack.ok("submit", *git, *options, *limits, "--label", "a=b", "--name", "whole", *words).strip()
    open_run(viewer, execution_id)
    expect(viewer.locator(".run-head")).to_contain_text("Succeeded")
    viewer.get_by_role("button", name="Run again").click()
    expect(viewer.locator(".note")).to_contain_text("All that was signed for")
    expect(viewer.get_by_label("Secrets")).to_have_value(secret)
    expect(viewer.get_by_label("Git repository")).to_have_value(str(repository.bare))
    before = json.loads(stack.ok("list", "--limit", "1", "--json"))[0]["execution_id"]
    assert before == execution_id, "nothing is sent before one says so"
    viewer.get_by_role("button", name="Dry run").click()
    expect(viewer.get_by_text("It would be accepted, and start.")).to_be_visible()
    viewer.get_by_role("button", name="Run", exact=True).click()
    expect(viewer.locator(".run-head")).to_contain_text("Succeeded")
    first, again = signed(stack, execution_id), signed(stack, shown_id(viewer))
    assert again["execution_id"] != execution_id
    own = ("request_id", "issued_at", "expires_at")
    assert {name: value for name, value in again["request"].items() if name not in own} == {
        name: value for name, value in first["request"].items() if name not in own
    }


def test_run_again_says_what_is_missing_where_the_request_is_not_to_be_had(
    viewer: Any, stack: Any, watched: Any
) -> None:
    watched.expect("404")
    gone = {"error": {"code": "NOT_FOUND", "message": "GET …/request does not exist", "retryable": False}}
    viewer.route("**/request", lambda route: route.fulfill(status=404, json=gone))
    execution_id = stack.ok("submit", "--env", "A=b", "--lock", "fallback", "--label", "a=b", "echo some").strip()
    open_run(viewer, execution_id)
    expect(part(viewer, "request").get_by_role("alert")).to_contain_text("does not exist")
    viewer.get_by_role("button", name="Run again").click()
    expect(viewer.locator(".note")).to_contain_text("Its request is not to be had")
    expect(viewer.locator(".note")).to_contain_text("Variables, secrets")
    expect(viewer.get_by_label("Command", exact=True)).to_have_value("echo some")
    expect(viewer.get_by_label("Locks")).to_have_value("fallback")
    expect(viewer.get_by_label("Variables")).to_have_value("")


def test_json_in_the_form_is_checked(viewer: Any) -> None:
    viewer.keyboard.press("n")
    viewer.get_by_label("Command", exact=True).fill('["echo", 1]')
    viewer.get_by_label("The command is").select_option("json")
    viewer.get_by_label("Variables").fill('{"A": 1}')
    viewer.get_by_role("button", name="Run", exact=True).click()
    expect(viewer.get_by_role("alert")).to_contain_text("This is no list of words.")
    expect(viewer.get_by_role("alert")).to_contain_text("“A” is no variable with a text")
    viewer.get_by_label("Command", exact=True).fill("[")
    viewer.get_by_role("button", name="Run", exact=True).click()
    expect(viewer.get_by_role("alert")).to_contain_text("This is no JSON.")


def test_a_variable_may_have_any_name_that_a_shell_has(viewer: Any) -> None:
    viewer.goto(viewer.url.partition("?")[0] + "?view=new")
    viewer.get_by_label("Command", exact=True).fill("env")
    viewer.get_by_label("Variables").fill("__proto__=a=b\nconstructor=c\n_x=")
    sent = sent_by(viewer, lambda: viewer.get_by_role("button", name="Run", exact=True).click())
    assert sent.env == {"__proto__": "a=b", "constructor": "c", "_x": ""}
