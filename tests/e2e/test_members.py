"""A team on one stack, as its members see it: claiming, keys, roles, revocation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import Machine

pytestmark = pytest.mark.xdist_group("members")


class Team:
    """The admin's machine, which is the stack's, and the members' homes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.admin = Machine(folder / "admin")
        self.admin.ok("local", "up")

    def home(self, name: str) -> Machine:
        return Machine(self.folder / name)

    def token(self, user: str, role: str = "developer") -> str:
        return self.admin.ok("users", "create", user, "--role", role).strip()

    def member(self, user: str, role: str = "developer") -> Machine:
        made = self.home(user)
        made.ok("claim", self.token(user, role))
        return made


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    made = Team(tmp_path_factory.mktemp("team"))
    yield made
    made.admin.end()


def code_of(done: Any) -> str:
    text: str = done.stderr.decode()
    return text[text.rindex("(") + 1 : text.rindex(")")]


def test_a_member_claims_a_key_and_runs(team: Team) -> None:
    bob = team.home("bob")
    token = team.token("Bob@Example.com")
    told = json.loads(bob.ok("claim", token, "--json"))
    assert (told["key"]["user"], told["role"]) == ("bob@example.com", "developer")
    assert json.loads(bob.ok("whoami", "--json"))["user"] == "bob@example.com"
    assert (bob.home / "config.yaml").stat().st_mode & 0o777 == 0o600
    assert bob.ok("run", "echo hello") == "hello\n"
    assert list((bob.home / "pending_keys").iterdir()) == []
    execution = json.loads(bob.ok("list", "--json"))[0]
    assert execution["owner"] == "bob@example.com"
    # The key itself is on this machine alone: neither the stack nor its admin ever had it.
    secret = next(line for line in (bob.home / "config.yaml").read_text().splitlines() if "api_key" in line).split()[1]
    for path in team.admin.home.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
            assert token.encode() not in path.read_bytes(), path


def test_a_token_works_once_and_its_refusal_says_nothing(team: Team) -> None:
    token = team.token("once@example.com")
    team.home("first").ok("claim", token)
    used = team.home("second")("claim", token)
    assert used.returncode == 1
    assert code_of(used) == "NOT_FOUND"
    assert not (team.home("second").home / "config.yaml").exists()
    assert code_of(team.home("third")("claim", f"{token}x")) == "INVALID_REQUEST"
    assert code_of(team.home("third")("claim", "rvk1_x")) == "INVALID_REQUEST"


def test_a_claim_never_overwrites_a_key(team: Team) -> None:
    home = team.home("careful")
    home.ok("claim", team.token("careful@example.com"))
    before = (home.home / "config.yaml").read_text()
    token = team.token("careful2@example.com")
    refused = home("claim", token)
    assert refused.returncode == 2
    assert "--profile" in refused.stderr.decode()
    assert (home.home / "config.yaml").read_text() == before
    home.ok("claim", token, "--profile", "two")
    assert json.loads(home.ok("whoami", "--json", "--profile", "two"))["user"] == "careful2@example.com"
    assert json.loads(home.ok("whoami", "--json"))["user"] == "careful@example.com"
    home.ok("claim", team.token("careful3@example.com"), "--replace")
    assert json.loads(home.ok("whoami", "--json"))["user"] == "careful3@example.com"


def test_a_token_on_stdin_leaves_no_trace_in_the_process_list(team: Team) -> None:
    home = team.home("piped")
    token_file = team.folder / "token"
    token_file.write_text(team.token("piped@example.com"))
    with token_file.open("rb") as stdin:
        process = home.popen("claim", "-", stdin=stdin)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err


def test_a_rotated_key_replaces_the_old_one(team: Team) -> None:
    eve = team.member("eve@example.com")
    old = json.loads(eve.ok("whoami", "--json"))["key_id"]
    copy = team.folder / "eve-old"
    shutil.copytree(eve.home, copy)
    new = eve.ok("keys", "rotate").strip()
    assert json.loads(eve.ok("whoami", "--json"))["key_id"] == new != old
    assert code_of(Machine(copy)("whoami")) == "KEY_REVOKED"
    keys = {key["key_id"]: key for key in json.loads(eve.ok("keys", "list", "--json"))}
    assert keys[old]["revoked_at"]
    assert keys[new]["revoked_at"] is None
    assert eve.ok("run", "echo still here") == "still here\n"


def test_what_a_stolen_key_made_is_told_of_and_can_go_with_it(team: Team) -> None:
    liz = team.member("liz@example.com")
    stolen = json.loads(liz.ok("whoami", "--json"))["key_id"]
    endpoint = team.admin.endpoint()

    def make(with_key: Machine) -> tuple[str, Machine]:
        made = json.loads(with_key.ok("keys", "create", "--json"))
        holder = team.home(made["key"]["key_id"])
        holder.env |= {
            "RUNVOY_ENDPOINT": f"http://127.0.0.1:{endpoint['port']}",
            "RUNVOY_DEPLOYMENT": endpoint["deployment_id"],
            "RUNVOY_API_KEY": made["api_key"],
        }
        return made["key"]["key_id"], holder

    loot_id, loot = make(liz)
    further_id, further = make(loot)
    told = team.admin("keys", "revoke", stolen)
    assert told.returncode == 0
    assert f"{stolen} made keys that stay good: {loot_id};".encode() in told.stderr
    assert json.loads(loot.ok("whoami", "--json"))["key_id"] == loot_id
    ended = team.admin.ok("keys", "revoke", "--and-made", stolen)
    assert [line.split()[0] for line in ended.splitlines()] == [stolen, loot_id, further_id]
    assert code_of(further("whoami")) == "KEY_REVOKED"
    assert team.admin("keys", "revoke", "--and-made", stolen).stderr == b""


def test_the_key_in_use_is_revoked_last_with_what_it_made(team: Team) -> None:
    amy = team.member("amy@example.com")
    own = json.loads(amy.ok("whoami", "--json"))["key_id"]
    made, further, other = (json.loads(amy.ok("keys", "create", "--json")) for _ in range(3))
    endpoint = team.admin.endpoint()
    holder = team.home("loot")
    holder.env |= {
        "RUNVOY_ENDPOINT": f"http://127.0.0.1:{endpoint['port']}",
        "RUNVOY_DEPLOYMENT": endpoint["deployment_id"],
        "RUNVOY_API_KEY": made["api_key"],
    }
    made_by_made = json.loads(holder.ok("keys", "create", "--json"))["key"]["key_id"]
    ids = [one["key"]["key_id"] for one in (other, made, further)]
    ended = [line.split()[0] for line in amy.ok("keys", "revoke", "--and-made", own, ids[0]).splitlines()]
    assert ended[0] == ids[0]
    assert ended[-1] == own
    assert sorted(ended) == sorted([own, *ids, made_by_made])
    keys = json.loads(team.admin.ok("keys", "list", "--user", "amy@example.com", "--json"))
    assert all(key["revoked_at"] for key in keys)


def test_the_key_in_use_is_not_revoked_with_what_made_it(team: Team) -> None:
    zoe = team.member("zoe@example.com")
    old = json.loads(zoe.ok("whoami", "--json"))["key_id"]
    new = zoe.ok("keys", "rotate").strip()
    done = zoe("keys", "revoke", "--and-made", old)
    assert (done.returncode, done.stdout.split()[0].decode()) == (0, old)
    assert f"{new}, the key in use, was made by it as well, and stays".encode() in done.stderr
    assert zoe.ok("run", "echo still here") == "still here\n"


def test_the_stack_s_own_key_can_be_rotated_too(team: Team) -> None:
    new = team.admin.ok("keys", "rotate").strip()
    team.admin.ok("local", "down")
    assert json.loads(team.admin.ok("whoami", "--json"))["key_id"] == new
    assert json.loads(team.admin.ok("whoami", "--json"))["role"] == "admin"


def test_a_key_for_ci_does_what_it_is_limited_to(team: Team) -> None:
    dan = team.member("dan@example.com", "operator")
    other = dan.ok("submit", "--label", "env=prod", "echo mine").strip()
    made = json.loads(
        dan.ok(
            "keys",
            "create",
            "--name",
            "ci",
            "--expires",
            "90d",
            "--only-label",
            "env=prod",
            "--only-lock",
            "db",
            "--json",
        )
    )
    endpoint = team.admin.endpoint()
    ci = team.home("ci")
    ci.env |= {
        "RUNVOY_ENDPOINT": f"http://127.0.0.1:{endpoint['port']}",
        "RUNVOY_DEPLOYMENT": endpoint["deployment_id"],
        "RUNVOY_API_KEY": made["api_key"],
    }
    shown = json.loads(ci.ok("whoami", "--json"))
    assert shown["limits"] == {"locks": ["db"], "labels": {"env": "prod"}}
    assert shown["key_expires_at"]
    refused = ci("run", "--lock", "other", "echo no")
    assert refused.returncode == 121
    assert b"env=prod" in refused.stderr
    assert b"db" in refused.stderr
    assert ci.ok("run", "--lock", "db", "--label", "env=prod", "echo yes") == "yes\n"
    assert len(json.loads(ci.ok("list", "--json"))) == 1
    assert code_of(ci("status", other)) == "NOT_FOUND"
    for forbidden in (("users", "list"), ("keys", "list"), ("keys", "create"), ("locks", "list")):
        assert code_of(ci(*forbidden)) == "FORBIDDEN", forbidden
    assert ci("keys", "rotate").returncode == 2
    own_id = made["key"]["key_id"]
    assert ci.ok("keys", "revoke", own_id) == f"{own_id} of dan@example.com is revoked\n"
    assert code_of(ci("whoami")) == "KEY_REVOKED"


def test_a_key_limited_to_images_is_limited_to_registered_ones(team: Team) -> None:
    team.admin.ok("images", "register", "docker.io/hashicorp/terraform:1.9")
    lou = team.member("lou@example.com")
    for create in ("keys", "create"), ("keys", "create", "--name", "ci"):
        made = json.loads(lou.ok(*create, "--only-image", "terraform", "--only-image", "terraform:1.9", "--json"))
        assert made["key"]["limits"]["images"] == ["docker.io/hashicorp/terraform:1.9"]
    before = len(json.loads(lou.ok("keys", "list", "--json")))
    unknown = lou("keys", "create", "--only-image", "terrafrom")
    assert (unknown.returncode, code_of(unknown)) == (1, "IMAGE_NOT_FOUND")
    assert b"docker.io/hashicorp/terraform:1.9" in unknown.stderr
    assert len(json.loads(lou.ok("keys", "list", "--json"))) == before
    team.admin.ok("images", "unregister", "docker.io/hashicorp/terraform:1.9")


def test_several_keys_are_revoked_whatever_is_wrong_with_one(team: Team) -> None:
    kim = team.member("kim@example.com")
    ids = [json.loads(kim.ok("keys", "create", "--json"))["key"]["key_id"] for _ in range(2)]
    done = kim("keys", "revoke", ids[0], "nosuchkey", ids[1], "--json")
    assert done.returncode == 1
    assert [json.loads(line)["key_id"] for line in done.stdout.splitlines()] == ids
    error = json.loads(done.stderr)["error"]
    assert (error["code"], error["details"]) == ("NOT_FOUND", {"key_id": "nosuchkey"})
    revoked = {key["key_id"] for key in json.loads(kim.ok("keys", "list", "--json")) if key["revoked_at"]}
    assert revoked == set(ids)


def test_a_user_s_name_may_be_written_with_capitals(team: Team) -> None:
    jo = team.member("jo@example.com")
    own = json.loads(jo.ok("whoami", "--json"))["key_id"]
    for name in ("jo@example.com", " Jo@Example.COM "):
        keys = json.loads(team.admin.ok("keys", "list", "--user", name, "--json"))
        assert [key["key_id"] for key in keys] == [own]
        assert json.loads(team.admin.ok("keys", "create", "--user", name, "--json"))["user"] == "jo@example.com"
        found = team.admin.ok("--json", "audit", "--user", name, "--action", "claim-key").splitlines()
        assert [json.loads(line)["key_id"] for line in found] == [own]


@pytest.mark.parametrize(
    "wrong",
    [
        ("claim", "rvc1_AAAA"),
        ("claim", "what is this"),
        ("keys", "create", "--expires", "10s"),
        ("keys", "create", "--only-lock", ""),
        ("keys", "create", "--name", "two\nlines"),
        ("secrets", "create", "a secret", "NAME"),
        ("secrets", "create", "name", "RUNVOY_NAME"),
        ("secrets", "create", "name", "NAME", "--share", "not a user"),
    ],
)
def test_what_is_wrong_in_the_command_line_itself_is_2_and_sends_nothing(
    tmp_path: Path, wrong: tuple[str, ...]
) -> None:
    machine = Machine(tmp_path / "home")
    done = machine(*wrong)
    assert (done.returncode, code_of(done)) == (2, "INVALID_REQUEST")
    assert b"both ends' versions" not in done.stderr
    assert not machine.home.exists() or not (machine.home / "local").exists()


def test_roles_and_the_last_admin(team: Team) -> None:
    admin = json.loads(team.admin.ok("whoami", "--json"))["user"]
    for refused in (("users", "role", admin, "viewer"), ("users", "revoke", admin, "--yes")):
        done = team.admin(*refused)
        assert code_of(done) == "FORBIDDEN"
        assert "no other admin" in done.stderr.decode()
    vic = team.member("vic@example.com", "viewer")
    assert vic("run", "echo no").returncode == 121
    team.admin.ok("users", "role", "vic@example.com", "developer")
    assert vic.ok("run", "echo yes") == "yes\n"
    assert code_of(team.admin("users", "show", "nobody@example.com")) == "NOT_FOUND"
    assert team.admin("users", "create", "x@example.com", "--role", "king").returncode == 2
    assert code_of(team.admin("users", "create", "not a name", "--role", "viewer")) == "INVALID_REQUEST"
    assert code_of(team.admin("users", "create", "vic@example.com", "--role", "viewer")) == "CONFLICT"


def test_a_revoked_user_s_work_stops_and_their_old_keys_stay_worthless(team: Team) -> None:
    mia = team.member("mia@example.com")
    running = mia.ok("submit", "--lock", "mia", "sleep 100").strip()
    waiting = mia.ok("submit", "--lock", "mia", "echo never").strip()
    team.admin.wait_until(lambda: team.admin.status(running)["state"] == "RUNNING")
    assert team.admin("users", "revoke", "mia@example.com").returncode == 2  # nobody to ask
    told = json.loads(team.admin.ok("users", "revoke", "mia@example.com", "--yes", "--json"))
    assert told["killed"] == []
    assert code_of(mia("run", "echo no")) == "KEY_REVOKED"
    assert team.admin.status(running)["state"] == "RUNNING"
    again = json.loads(team.admin.ok("users", "revoke", "mia@example.com", "--yes", "--stop-all", "--json"))
    assert sorted(again["killed"]) == sorted([running, waiting])
    assert team.admin("wait", running, waiting).returncode == 123
    assert team.admin.status(waiting).get("started_at") is None
    back = team.token("mia@example.com")
    assert code_of(mia("whoami")) == "KEY_REVOKED"
    mia.ok("claim", back, "--replace")
    assert mia.ok("run", "echo back") == "back\n"


def test_one_members_runs_leave_places_and_the_queue_to_the_others(team: Team) -> None:
    """A member with more runs than places, and with as many as they may have, and another who runs one."""
    loop, other = team.member("loop@example.com"), team.member("other@example.com")
    team.admin.ok("quotas", "set", "--user", "loop@example.com", "--max-running", "1", "--max-unfinished", "3")
    mine = [loop.ok("submit", "sleep 60").strip() for _ in range(3)]
    refused = loop("run", "true")
    assert (refused.returncode, b"(QUOTA_EXCEEDED)" in refused.stderr) == (121, True)
    assert b"loop@example.com has 3 unfinished executions, and may have 3 at most" in refused.stderr
    assert other.ok("run", "echo hello") == "hello\n"
    loop.wait_until(lambda: loop.status(mine[2])["state"] == "STARTING")
    assert loop.status(mine[2])["message"] == "loop@example.com has 1 running, and may have 1 at once"
    use = json.loads(loop.ok("whoami", "--json"))["quota"]
    assert (use["unfinished"], use["running"]) == (3, 1)
    loop.ok("kill", "--wait", *mine)
    assert loop.ok("run", "echo again") == "again\n"
