"""What a secret can be, at its bounds, and that no message shows a value."""

import msgspec
import pytest

from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.secret_messages import CreateSecret, SecretValue, UpdateSecret, check_secret, check_value

# What makes programs load or run something.
MEANINGS = """
PATH IFS ENV BASH_ENV BASHOPTS SHELLOPTS PS4 PROMPT_COMMAND HOME SHELL EDITOR PAGER NODE_OPTIONS PERL5OPT PERL5LIB RUBYOPT
RUBYLIB JAVA_TOOL_OPTIONS JDK_JAVA_OPTIONS _JAVA_OPTIONS CLASSPATH MAVEN_OPTS GRADLE_OPTS DOTNET_STARTUP_HOOKS
LD_PRELOAD DYLD_INSERT_LIBRARIES BASH_FUNC_ls PYTHONPATH GCONV_PATH GIT_CONFIG_COUNT GIT_CONFIG GIT_EXEC_PATH GIT_SSH
GIT_SSH_COMMAND GIT_EXTERNAL_DIFF LD_ DYLD_ BASH_FUNC_ PYTHON GCONV_ GIT_EXEC GIT_EXTERNAL
"""


def problem_of(name="token", env_name="TOKEN", description="", shared_with=()):
    with pytest.raises(RunvoyError) as caught:
        check_secret(name, env_name, description, shared_with)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    return caught.value.message


@pytest.mark.parametrize("env_name", MEANINGS.split())
def test_what_programs_heed_is_no_secret_s_variable(env_name):
    assert problem_of(env_name=env_name).startswith(f"a secret cannot be the variable {env_name}:")


@pytest.mark.parametrize("env_name", ["TOKEN", "PATHS", "MY_PATH", "LD", "GIT_TOKEN", "BASH_TOKEN", "GCONV", "home"])
def test_other_variables_are(env_name):
    check_secret("token", env_name, "", ())


def test_what_a_secret_can_be_at_most():
    users = tuple(f"user{number}" for number in range(64))
    check_secret("n" * 128, "TOKEN", "ä" * 256, users)
    check_secret("n", "T", "", ("*", "ada@example.com"))
    assert "is no name for a secret" in problem_of(name="n" * 129)
    assert "is no name for a secret" in problem_of(name="")
    assert "over 256 characters" in problem_of(description="ä" * 257)
    assert "not printable" in problem_of(description="a\nb")
    assert "at most 64 different users" in problem_of(shared_with=(*users, "one-more"))
    assert "at most 64 different users" in problem_of(shared_with=("ada", "bob", "ada"))
    assert problem_of(shared_with=("ada", "No Name")) == "'No Name' is no name for a user"
    assert "TOKEN=" in problem_of(env_name="TOKEN=")


def test_five_problems_are_told_and_not_a_sixth():
    assert problem_of(shared_with=tuple(f"No {number}" for number in range(6))).count(";") == 4
    assert problem_of("", "1", "\n", ("A", "A")).count(";") == 4


def value_refusal(value):
    with pytest.raises(RunvoyError) as caught:
        check_value(value)
    return caught.value.code


def test_the_bounds_of_a_value():
    check_value(b"12345678")
    check_value(b" \n12345678\n")
    check_value(b"x" * 65_536)
    assert value_refusal(b"1234567") is ErrorCode.INVALID_REQUEST
    assert value_refusal(b" 1234567\n") is ErrorCode.INVALID_REQUEST
    assert value_refusal(b"") is ErrorCode.INVALID_REQUEST
    assert value_refusal(b"x" * 65_537) is ErrorCode.TOO_LARGE
    assert value_refusal(b"12345678\0") is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    "message",
    [
        CreateSecret(name="token", env_name="TOKEN", value=b"hunter22!"),
        UpdateSecret(version=3, value=b"hunter22!"),
        SecretValue(name="token", env_name="TOKEN", version=3, value=b"hunter22!"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_repr_shows_all_but_the_value(message):
    assert "hunter22" not in repr(message)
    assert "value=…" in repr(message)
    hidden = {"value": b"hunter22!"}
    for field in set(message.__struct_fields__) - hidden.keys():
        assert f"{field}={getattr(message, field)!r}" in repr(message)


def test_what_is_left_out_of_a_message():
    made = msgspec.json.decode(b'{"name":"n","env_name":"N","value":""}', type=CreateSecret)
    assert (made.description, made.shared_with) == ("", ())
    changed = msgspec.json.decode(b'{"version":7}', type=UpdateSecret)
    assert msgspec.structs.astuple(changed) == (7, None, None, None, None)
    assert "value=None" in repr(changed), "what does not change is no value"
