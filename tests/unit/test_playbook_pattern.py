"""A pattern means the same here and beside the command: whatever is taken as one is, to grep -E, the very same thing."""

import shutil
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runvoy_protocol import patterns

PIECES = [
    "a",
    "b",
    "ab",
    "0",
    "-",
    ".",
    "[ab]",
    "[^a]",
    "[a-c0-9-]",
    "(",
    ")",
    "|",
    "*",
    "+",
    "?",
    "{2}",
    "{0,2}",
    "{1,}",
]
PIECES += [
    "\\.",
    "\\*",
    "\\\\",
    "^",
    "$",
    "{",
    "}",
    "]",
    "[",
    "\\d",
    "[]a]",
    "[a\\]",
    "é",
    "/",
    ",",
    "#",
    " ",
    "'",
    '"',
]
VALUES = st.text("ab0-.c*\\é/, \n", max_size=6)


def grep(pattern, value):
    done = subprocess.run(
        ["grep", "-Eqx", "-e", pattern],
        input=f"{value}\n".encode(),
        env={"LC_ALL": "C"},
        capture_output=True,
        check=False,
    )
    assert done.returncode in (0, 1), (pattern, done.stderr)
    assert done.stderr == b"", pattern
    return done.returncode == 0


@pytest.mark.skipif(shutil.which("grep") is None, reason="no grep here")
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=7).map("".join), st.lists(VALUES, min_size=1, max_size=3))
def test_what_is_a_pattern_means_the_same_to_grep(pattern, values):
    if patterns.problem_of(pattern):
        return
    for value in values:
        matches = patterns.matches(pattern, value)
        if "\n" in value:
            assert not matches  # grep would look at each line; the shell text refuses such a value before
        else:
            assert matches == grep(pattern, value), (pattern, value)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("[a-z]+", ["a", "abc"], ["", "A", "a1", "a\n", "\na"]),
        ("a|bc", ["a", "bc"], ["ab", "abc", "ac"]),
        ("(a|b){2,3}c?", ["ab", "abac"], ["a", "abacc"]),
        ("[^/]*", ["", "ü-1"], ["a/b"]),
        ("v[0-9]+(\\.[0-9]+)*", ["v1", "v1.2.3"], ["v", "v1.", "v1x2"]),
        ("[A-Za-z_-]", ["_", "-", "Z"], ["[", "ab"]),
    ],
)
def test_patterns(pattern, yes, no):
    assert patterns.problem_of(pattern) == ""
    assert [value for value in yes + no if patterns.matches(pattern, value)] == yes


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("", "1 to 512"),
        ("a" * 513, "1 to 512"),
        ("\\d+", "write [0-9]"),
        ("\\", "does not mean the same"),
        ("a+?", "repeats nothing"),
        ("*a", "repeats nothing"),
        ("(?:a)", "repeats nothing"),
        ("a{256}", "too often"),
        ("a{3,2}", "too often"),
        ("a{,2}", "begins no"),
        ("a{٣}", "begins no"),  # a digit to Python's own \\d, and none to grep
        ("(a", "never closed"),
        ("a)", "has no `(`"),
        ("a||b", "is empty"),
        ("()", "is empty"),
        ("|a", "is empty"),
        ("a|", "is empty"),
        ("a^b", "no place here"),
        ("[a", "no plain set"),
        ("[]a]", "no plain set"),
        ("[[:alpha:]]", "no plain set"),
        ("[z-a]", "no range"),
        ("[A-z]", "no range"),
        ("[+--]", "no range"),
        ("[a-c-e]", "stands first or last"),
        ("é", "cannot stand here"),
        ("[é]", "not plain ASCII"),
        ("a}", "cannot stand here"),
    ],
)
def test_what_is_no_pattern(pattern, told):
    assert told in patterns.problem_of(pattern)


def test_anchors_around_a_pattern_are_taken_off():
    assert patterns.without_anchors("^a|b$") == "a|b"
    assert patterns.without_anchors("a\\$") == "a\\$"
