"""Whatever is a pattern, and whatever it is held against: the comparison is exact and its steps are bounded, here and in the page."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runvoy_protocol import patterns
from runvoy_protocol.playbooks import Parameter

WEB = Path(__file__).parents[2] / "web" / "runvoy_web"
NODE = shutil.which("node")
GREP = shutil.which("grep")
ATOMS = ["a", "b", "ab", ".", "[ab]", "[^a]", "[a-c0-9-]", r"\.", "-"]
OFTEN = ["", "", "*", "+", "?", "{2}", "{0,}", "{0,2}", "{1,}", "{3,70}"]
# Each of them takes an engine that goes back to try again longer than anybody waits, most of them for a value of fifty characters.
CRUEL = [
    "(a+)+b",
    "(a*)*b",
    "(a|a)*b",
    "(a|aa)+b",
    "(a|ab|b)*c",
    "([a-z]+-?)+[0-9]",
    "(.*.*.*.*.*.*)*b",
    "(a?){255}a{255}",
    "((a{0,255})*b|a*)*c",
    "[a-z]*" * 60 + "[0-9]",
    "(((a+)+)+)+b",
    "(a{1,30}){1,40}b",
]

# As often as nobody could count, and yet of no size; grep overflows its stack.
NOTHING = ["a{0}", "a{0,0}b", "(" * 40 + "a{0}" + "){255}" * 40 + "b", "(((a{255}){255}){255}){0}"]


def joined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    group = inner.map("({})".format)
    repeated = st.tuples(st.one_of(group, st.sampled_from(ATOMS)), st.sampled_from(OFTEN)).map("".join)
    row = st.lists(repeated, min_size=1, max_size=4).map("".join)
    return st.lists(row, min_size=1, max_size=3).map("|".join)


PATTERNS = st.recursive(st.sampled_from(ATOMS), joined, max_leaves=12).filter(
    lambda text: not patterns.problem_of(text)
)
VALUES = st.text("ab0-.cé", max_size=8)


@pytest.mark.skipif(GREP is None, reason="no grep here")
@settings(max_examples=120, deadline=None)
@given(PATTERNS, st.lists(VALUES, min_size=1, max_size=12))
@example("(a*)*|b", ["", "aab"])
@example("(((a?)?)?){2}b", ["b", "ab", "aab", "aaab"])
def test_a_comparison_is_exact(pattern: str, values: list[str]) -> None:
    """Held against grep: Python's own engine takes for ever with some of these and a value of eight characters."""
    assert GREP is not None
    command = [GREP, "-Exn", "-a", "-e", pattern]
    lines = "".join(f"{value}\n" for value in values).encode()
    done = subprocess.run(command, input=lines, env={"LC_ALL": "C"}, capture_output=True, check=False, timeout=60)
    wanted = {int(line.partition(b":")[0]) - 1 for line in done.stdout.splitlines()}
    assert {at for at, value in enumerate(values) if patterns.matches(pattern, value)} == wanted


UNITS = (b"a", b"ab", b"ba", b"a-", b"aab0")


def value_against(pattern: str, unit: bytes) -> bytes:
    """A long one that nearly matches: it repeats what the pattern likes, and ends in what it does not."""
    most = min(patterns.longest(pattern), 20_000)
    return (unit * most)[: most - 1] + b"!"


@settings(max_examples=25, deadline=None)
@given(PATTERNS, st.sampled_from(UNITS))
def test_the_steps_of_a_comparison_are_bounded(pattern: str, unit: bytes) -> None:
    walk = patterns.walk(pattern, value_against(pattern, unit))
    assert walk.steps <= patterns.MAX_STEPS + patterns.MAX_SIZE


@pytest.mark.parametrize("pattern", CRUEL)
def test_a_cruel_pattern_is_as_good_as_any(pattern: str) -> None:
    assert patterns.problem_of(pattern) == ""
    walk = patterns.walk(pattern, value_against(pattern, b"a"))
    assert (walk.is_match, walk.steps <= patterns.MAX_STEPS + patterns.MAX_SIZE) == (False, True)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([*ATOMS, *OFTEN, "(", "(", ")", ")", "|", "{255}", "{200,255}"]), max_size=60).map("".join)
)
def test_what_is_accepted_is_small_written_out(pattern: str) -> None:
    if patterns.problem_of(pattern) == "":
        assert patterns.longest(pattern) >= patterns.MAX_STEPS // patterns.MAX_SIZE


@pytest.mark.parametrize(
    "pattern",
    ["(" * 250 + "a" + ")" * 250, "(" * 127 + "a" + ")?" * 127, "(a|" * 84 + "b" + ")*c" * 84, "(((a)?)?)?" * 40],
)
def test_a_deep_pattern_is_read(pattern: str) -> None:
    assert patterns.problem_of(pattern) == ""
    assert not patterns.matches(pattern, "x")


@pytest.mark.parametrize("pattern", NOTHING)
def test_what_repeats_nothing_is_no_pattern(pattern: str) -> None:
    assert "or not at all" in patterns.problem_of(pattern)


@pytest.mark.skipif(NODE is None, reason="no Node.js here")
def test_the_page_repeats_no_nothing_whoever_published_it() -> None:
    script = f"""
      import {{ matches }} from {json.dumps((WEB / "patterns.js").as_uri())};
      console.log(JSON.stringify({json.dumps([*NOTHING, "(" * 40 + "()" + "{255})" * 40 + "{255}"])}.map((pattern) => matches(pattern, "b"))));"""
    assert NODE is not None
    done = subprocess.run(
        [NODE, "--input-type=module", "-e", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stdout) == [None] * 5


@pytest.mark.parametrize(
    "pattern", ["(a{255}){12}", "((a{255}){255}){255}", "(" * 70 + "a" + "{255})" * 70 + "{255}", "((.?){200}){100,}"]
)
def test_a_pattern_that_is_too_large_is_none(pattern: str) -> None:
    assert "ask for less often" in patterns.problem_of(pattern)


def test_a_value_that_is_too_long_for_its_pattern_is_told_so() -> None:
    parameter = Parameter(name="a", pattern="([a-z]{255}){11}[a-z]*", required=True)
    assert parameter.pattern is not None
    most = patterns.longest(parameter.pattern)
    assert most > 11 * 255, "what a pattern without * can match is never too long for it"
    assert parameter.objection("x" * most) == ""
    assert (
        parameter.objection("x" * (most + 1)) == f"has more than {most} bytes, too many to be held against its pattern"
    )
    assert parameter.objection("é" * (most // 2 + 1)).startswith("has more than")


@pytest.mark.skipif(NODE is None, reason="no Node.js here: tests/browser hold some of it to the page")
def test_the_page_takes_the_very_same_steps() -> None:
    made = random.Random(7)
    likely = ["".join(made.choices("aab0-.cé\n\0", k=made.randrange(9))) for _ in range(60)]
    drawn: list[str] = []

    @settings(max_examples=150, deadline=None, database=None, derandomize=True)
    @given(PATTERNS)
    def draw(pattern: str) -> None:
        drawn.append(pattern)

    draw()
    cases = [(pattern, likely) for pattern in dict.fromkeys(drawn)]
    cases += [(pattern, [value_against(pattern, unit)[-2000:].decode() for unit in UNITS]) for pattern in CRUEL]
    script = f"""
      import {{ readFileSync }} from "node:fs";
      import {{ compile, longest, matches, walk }} from {json.dumps((WEB / "patterns.js").as_uri())};
      const utf8 = new TextEncoder();
      const cases = JSON.parse(readFileSync(0, "utf8"));
      console.log(JSON.stringify(cases.map(([pattern, values]) => [longest(pattern), values.map((value) =>
        [matches(pattern, value), walk(compile(pattern), utf8.encode(value)).steps])])));"""
    assert NODE is not None
    done = subprocess.run(
        [NODE, "--input-type=module", "-e", script],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    for (pattern, values), (longest, found) in zip(cases, told, strict=True):
        assert longest == patterns.longest(pattern), pattern
        for value, (is_match, steps) in zip(values, found, strict=True):
            wanted = [patterns.matches(pattern, value), patterns.walk(pattern, value.encode()).steps]
            assert [is_match, steps] == wanted, (pattern, value[:80])
