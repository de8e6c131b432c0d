"""Values as people write them: durations, sizes, pairs, files of variables, ids."""

from datetime import UTC, datetime

import pytest

from runvoy_cli.input import values
from runvoy_cli.input.problems import UsageProblem
from runvoy_protocol import ids
from runvoy_protocol.keys import SigningKey

KEY = SigningKey(bytes(32))
NOW = datetime(2030, 1, 31, 9, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("10m", 600),
        ("1h", 3600),
        ("1h30m", 5400),
        ("1d2h3m4s", 93784),
        ("600", 600),
        ("0", 0),
        (" 5S ", 5),
    ],
)
def test_durations(text, seconds):
    assert values.duration(text) == seconds


@pytest.mark.parametrize("text", ["", " ", "m", "10x", "-5", "1.5h", "10m5h", "1h 30m x", "٣s", "9" * 30])
def test_what_is_no_duration_says_how_to_write_one(text):
    with pytest.raises(UsageProblem, match="no duration") as caught:
        values.duration(text)
    assert "10m" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "mib"), [("512", 512), ("512m", 512), ("2g", 2048), ("1.5G", 1536), ("64MiB", 64), ("1gb", 1024)]
)
def test_memory(text, mib):
    assert values.memory_mib(text) == mib


@pytest.mark.parametrize("text", ["", "g", "2t", "-1", "0.3m", "1e3", "2 g b"])
def test_what_is_no_memory(text):
    with pytest.raises(UsageProblem, match=r"memory|MiB"):
        values.memory_mib(text)


@pytest.mark.parametrize(("text", "units"), [("0.25", 256), ("0.5", 512), ("2", 2048), ("256", 256), ("1024", 1024)])
def test_cpu_is_vcpus_or_units(text, units):
    assert values.cpu_units(text) == units


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "0.0001", "1..2", "nan"])
def test_what_is_no_cpu(text):
    with pytest.raises(UsageProblem, match="CPU"):
        values.cpu_units(text)


def test_pairs_split_at_the_first_equals_sign_and_the_last_of_a_name_wins():
    assert values.pairs("--env", ["A=1", "B=x=y", "C=", "A=2"]) == {"A": "2", "B": "x=y", "C": ""}


def test_a_pair_without_a_name_is_named_by_its_position_and_not_shown():
    with pytest.raises(UsageProblem, match="--env number 2") as caught:
        values.pairs("--env", ["A=1", "hunter2"])
    assert "hunter2" not in str(caught.value)


def test_words_are_kept_exactly_and_bad_bytes_are_placed():
    assert values.words(["a b", "", "ü", "--", "\n"]) == ("a b", "", "ü", "--", "\n")
    with pytest.raises(UsageProblem, match="word 2 of the command is not valid UTF-8"):
        values.words(["ok", "a\udcff"])


def test_variables_for_the_command_lose_their_prefix():
    environ = {"RUNVOY_USER_A": "1", "RUNVOY_USER_": "2", "RUNVOY_API_KEY": "3", "PATH": "4"}
    assert values.user_environment(environ) == {"A": "1"}


def test_env_file(tmp_path):
    path = tmp_path / "env"
    path.write_bytes(b'\xef\xbb\xbf# first\nA=1\r\n\nexport B=\'two words\'\nC="x"y"\nD=a=b # not a comment\nE=\n')
    found = values.env_file(path)
    assert found == {"A": "1", "B": "two words", "C": 'x"y', "D": "a=b # not a comment", "E": ""}


@pytest.mark.parametrize(("content", "told"), [(b"A=1\nB\n", "line 2"), (b"A=\xff", "UTF-8"), (None, "cannot be read")])
def test_a_broken_env_file_says_where(tmp_path, content, told):
    path = tmp_path / "env"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageProblem, match=told):
        values.env_file(path)


def test_moments():
    assert values.moment("10m", NOW) == datetime(2030, 1, 31, 8, 50, tzinfo=UTC)
    assert values.moment("2030-01-31T10:00:00+02:00", NOW) == datetime(2030, 1, 31, 8, 0, tzinfo=UTC)
    assert values.moment("20300131", NOW) == NOW - (NOW - values.moment("20300131", NOW))
    with pytest.raises(UsageProblem, match="no time"):
        values.moment("yesterday", NOW)


def test_execution_ids_are_taken_in_their_usual_forms():
    plain = ids.uuid7(NOW, bytes(10))
    dashed = f"{plain[:8]}-{plain[8:12]}-{plain[12:16]}-{plain[16:20]}-{plain[20:]}".upper()
    assert values.execution_id(f" {dashed}\n") == plain
    with pytest.raises(UsageProblem, match="no execution id"):
        values.execution_id("deploy-42")


def test_a_chosen_id_is_the_id_itself_or_what_a_text_stands_for():
    plain = ids.uuid7(NOW, bytes(10))
    assert values.chosen_id(plain, KEY) == plain
    assert values.chosen_id("deploy-42", KEY) == KEY.execution_id_of("deploy-42")
    assert values.chosen_id("deploy-42", KEY) != values.chosen_id("deploy-43", KEY)
    with pytest.raises(UsageProblem, match="empty"):
        values.chosen_id("", KEY)


def test_a_variable_without_a_value_is_taken_from_the_environment():
    here = {"TOKEN": "a=b c", "EMPTY": "", "RAW": "\udcff"}
    assert values.variables("--env", ["TOKEN", "EMPTY", "STAGE=test", "X="], here) == {
        "TOKEN": "a=b c",
        "EMPTY": "",
        "STAGE": "test",
        "X": "",
    }
    assert values.variables("--env", ["TOKEN=one", "TOKEN"], here) == {"TOKEN": "a=b c"}


@pytest.mark.parametrize("text", ["hunter2 of mine", "", "RAW"])
def test_what_is_no_variable_here_is_told_of_and_not_shown(text):
    with pytest.raises(UsageProblem) as caught:
        values.variables("--env", [text], {"RAW": "\udcff"})
    assert "--env number 1" in caught.value.message
    assert "hunter2" not in f"{caught.value.message}{caught.value.hint}"
