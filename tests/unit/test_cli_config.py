"""Which deployment is meant, and what is told of a configuration that does not say."""

import stat

import pytest

from runvoy_cli.home import config, config_file
from runvoy_cli.input.problems import UsageProblem
from runvoy_protocol.keys import SigningKey

KEY = SigningKey(bytes(range(32)))
OTHER = SigningKey(bytes(range(1, 33)))
API_KEY = KEY.to_api_key()
WHOLE = {"RUNVOY_ENDPOINT": "https://a.example", "RUNVOY_DEPLOYMENT": "d-1", "RUNVOY_API_KEY": API_KEY}
FILE = f"""\
endpoint: https://file.example/
deployment_id: file-1
api_key: {API_KEY}
timeout: 5m
profiles:
  prod:
    endpoint: https://prod.example
    deployment_id: prod-1
    api_key: {OTHER.to_api_key()}
  half:
    endpoint: https://half.example
"""


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def write(home, text, mode=0o600):
    home.mkdir(exist_ok=True)
    path = home / "config.yaml"
    path.write_text(text)
    path.chmod(mode)
    return path


def resolve(home, profile=None, **environ):
    warnings: list[str] = []
    found = config.resolve(profile, warnings.append, {"RUNVOY_HOME": str(home), **environ})
    return found, warnings


def test_nothing_at_all_means_this_machine(home):
    assert resolve(home) == (None, [])


def test_the_environment_is_enough(home):
    found, _ = resolve(home, **WHOLE)
    assert (found.endpoint, found.deployment_id, found.signing_key.key_id) == ("https://a.example", "d-1", KEY.key_id)


def test_the_file_and_its_timeout(home):
    write(home, FILE)
    found, warnings = resolve(home)
    assert (found.endpoint, found.deployment_id, found.timeout_seconds) == ("https://file.example", "file-1", 300)
    assert warnings == []


def test_the_environment_wins_over_the_file(home):
    write(home, FILE)
    found, _ = resolve(home, RUNVOY_ENDPOINT="https://env.example:8443")
    assert (found.endpoint, found.deployment_id) == ("https://env.example:8443", "file-1")


def test_a_profile_is_whole_by_itself_and_inherits_no_identity(home):
    write(home, FILE)
    found, _ = resolve(home, profile="prod")
    assert (found.endpoint, found.signing_key.key_id, found.timeout_seconds) == (
        "https://prod.example",
        OTHER.key_id,
        300,
    )
    assert resolve(home, RUNVOY_PROFILE="prod")[0].deployment_id == "prod-1"
    with pytest.raises(UsageProblem, match=r"missing deployment_id .*; api_key .*profile 'half'"):
        resolve(home, profile="half")


@pytest.mark.parametrize("missing", sorted(WHOLE))
def test_a_partial_environment_names_what_is_missing_and_where_it_goes(home, missing):
    environ = {name: value for name, value in WHOLE.items() if name != missing}
    with pytest.raises(UsageProblem, match=f"missing .*{missing}") as caught:
        resolve(home, **environ)
    assert str(home / "config.yaml") in caught.value.message
    assert all(name not in caught.value.message for name in environ)


@pytest.mark.parametrize("variable", [*sorted(WHOLE), "RUNVOY_PROFILE"])
def test_an_empty_variable_is_a_mistake_and_never_this_machine(home, variable):
    with pytest.raises(UsageProblem, match=f"{variable} is set but empty"):
        resolve(home, **{variable: " "})


def test_an_empty_file_is_a_configuration_too(home):
    write(home, "")
    with pytest.raises(UsageProblem, match="missing endpoint"):
        resolve(home)


def test_a_profile_nobody_made(home):
    with pytest.raises(UsageProblem, match="no config file"):
        resolve(home, profile="prod")
    write(home, FILE)
    with pytest.raises(UsageProblem, match="no profile 'prd'; its profiles: half, prod"):
        resolve(home, profile="prd")


@pytest.mark.parametrize(
    ("text", "told", "hint"),
    [
        ("endpoint: a: b", "line 1: this is no valid YAML", ""),
        ("endpoint: https://x.example\nendpont: y\n", "line 2: there is no setting 'endpont'", "'endpoint'"),
        ("api-key: y\n", "line 1: there is no setting 'api-key'", "'api_key'"),
        ("profiles:\n  a:\n    deployment: x\n", "line 3: there is no setting 'deployment'", "'deployment_id'"),
        ("endpoint:\n  - a\n", "line 2: endpoint must be text", ""),
        ("deployment_id: 17\n", "line 1: deployment_id must be text", ""),
        ("timeout: soon\n", "line 1: timeout is no duration", ""),
        ("timeout: 0\n", "line 1: timeout is not from 1s to 7d", "It is the deadline of commands"),
        ("timeout: 8d\n", "line 1: timeout is not from 1s to 7d", ""),
        ("timeout: true\n", "line 1: timeout must be a duration", ""),
        ("api_key:\n", "line 1: api_key must be text", ""),
        ('api_key: ""\n', "line 1: api_key is empty", ""),
        ("- a\n", "line 1: `name: value` pairs", ""),
        ("profiles: 3\n", "line 1: `name: value` pairs", ""),
        ("web_url: a\nweb_url: b\n", "line 2: 'web_url' stands here a second time", ""),
    ],
)
def test_a_broken_file_is_told_with_its_line(home, text, told, hint):
    write(home, text)
    with pytest.raises(UsageProblem) as caught:
        resolve(home, **WHOLE)
    assert told in caught.value.message
    assert hint in caught.value.hint


def test_a_syntax_error_does_not_show_the_line_it_is_in(home):
    write(home, f"api_key: {API_KEY} : x\n")
    with pytest.raises(UsageProblem, match="no valid YAML") as caught:
        resolve(home)
    assert API_KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "told"),
    [
        ("http://a.example", "plain http to a.example is refused"),
        ("ftp://a.example", "no http"),
        ("a.example", "no http"),
        ("https://a.example/path", "only https://host"),
        ("https://u:p@a.example", "only https://host"),
        ("https://a.example:port", "no valid port"),
        ("https://[a", "no http"),
        ("https://\u2100.example", "no http"),
    ],
)
def test_endpoints_that_are_refused(home, endpoint, told):
    with pytest.raises(UsageProblem, match=told) as caught:
        resolve(home, **{**WHOLE, "RUNVOY_ENDPOINT": endpoint})
    assert "RUNVOY_ENDPOINT" in caught.value.message


def test_plain_http_to_this_machine_is_allowed(home):
    assert resolve(home, **{**WHOLE, "RUNVOY_ENDPOINT": "http://127.0.0.1:8080"})[0] is not None


def test_a_damaged_key_is_told_without_the_key(home):
    damaged = API_KEY[:-1] + ("A" if API_KEY[-1] != "A" else "B")
    with pytest.raises(UsageProblem, match="RUNVOY_API_KEY: the API key is damaged") as caught:
        resolve(home, **{**WHOLE, "RUNVOY_API_KEY": damaged})
    assert damaged not in str(caught.value)


def test_a_file_that_others_can_read_is_warned_about(home):
    write(home, FILE, mode=0o644)
    _, warnings = resolve(home)
    assert len(warnings) == 1
    assert "chmod 600" in warnings[0]


def test_home_that_is_set_but_empty():
    with pytest.raises(UsageProblem, match="RUNVOY_HOME is set but empty"):
        config.home({"RUNVOY_HOME": ""})


def test_saving_keeps_other_profiles_and_is_private(home):
    path = write(home, FILE, mode=0o644)
    config_file.save(path, "prod", {"endpoint": "https://new.example"})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert resolve(home, profile="prod")[0].endpoint == "https://new.example"
    assert resolve(home)[0].endpoint == "https://file.example"
    assert [entry.name for entry in home.iterdir()] == ["config.yaml"]


def test_saving_goes_through_a_link(home, tmp_path):
    home.mkdir()
    (tmp_path / "dotfile.yaml").write_text("")
    (home / "config.yaml").symlink_to(tmp_path / "dotfile.yaml")
    config_file.save(home / "config.yaml", None, {"endpoint": "https://x.example"})
    assert (home / "config.yaml").is_symlink()
    assert config_file.load(tmp_path / "dotfile.yaml").top == {"endpoint": "https://x.example"}


SWAPPED_FILE = f"endpoint: https://a.example\ndeployment_id: {API_KEY}\napi_key: d-1\n"


@pytest.mark.parametrize(
    ("text", "profile", "environ"),
    [
        (None, None, {**WHOLE, "RUNVOY_DEPLOYMENT": API_KEY}),
        (SWAPPED_FILE, None, {}),
        (None, None, {**WHOLE, "RUNVOY_PROFILE": API_KEY}),
        (None, API_KEY, WHOLE),
    ],
    ids=["environment", "file", "profile", "option"],
)
def test_an_api_key_in_another_s_place_is_neither_shown_nor_sent(home, text, profile, environ):
    """As when two lines were swapped. A deployment's id goes into every call, and from there into the audit."""
    if text is not None:
        write(home, text)
    with pytest.raises(UsageProblem, match="holds an API key") as told:
        resolve(home, profile, **environ)
    assert API_KEY[8:] not in told.value.message + told.value.hint
