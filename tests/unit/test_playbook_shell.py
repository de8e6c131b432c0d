"""No value becomes code: where a placeholder may stand it arrives exactly, in every shell there is; elsewhere it is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runvoy_cli.playbooks import compiling, reader
from runvoy_cli.playbooks.placeholders import Kind, compile_value
from runvoy_cli.playbooks.reader import BadPlaybook
from runvoy_cli.playbooks.shell import compile_line, compile_words

KINDS = {"a": Kind("PARAM_A", False), "b": Kind("PARAM_B", False), "n": Kind("PARAM_N", True)}
# `show` keeps its words, each ended by a NUL.
SHOW = '#!/bin/sh\nprintf \'%s\\0\' "$@" >>"$RECORD"\n'

# Each context, and the words that `show` gets from it, of the value of `a`.
CONTEXTS = {
    "show ${{ a }}": lambda a: [a],
    'show "${{ a }}"': lambda a: [a],
    "show pre${{a}}post": lambda a: [f"pre{a}post"],
    'show "<${{ a }}>"${{ a }}': lambda a: [f"<{a}>{a}"],
    "show --x='y z'${{ a }}": lambda a: [f"--x=y z{a}"],
    "show \\\n  ${{ a }} # as it is": lambda a: [a],
    'show "$(printf \'%s.\' "${{ a }}")"': lambda a: [f"{a}."],
    "show $(show ${{ a }}; : \"nested ')' quotes\")": lambda a: [a],
    'X=${{ a }}; show "$X"': lambda a: [a],
    'export Y=${{ a }} Z="${{ a }}"; show "$Y" "$Z"': lambda a: [a, a],
    'for i in ${{ a }} "${{ a }}"; do show "$i"; done': lambda a: [a, a],
    "if [ ${{ a }} = x ]; then :; else show ${{ a }}; fi": lambda a: [] if a == "x" else [a],
    "case ${{ a }} in x) ;; *) show ${{ a }} ;; esac": lambda a: [] if a == "x" else [a],
    'f() { show "$1"; }; f ${{ a }}': lambda a: [a],
    "( show ${{ a }} ) 2>&1 | cat >/dev/null": lambda a: [a],
    "{ show ${{ a }}; } >/dev/null 2>&1 && :": lambda a: [a],
    "printf '%s' ${{ a }} >kept; show \"$(cat kept; echo .)\"": lambda a: [f"{a}."],
    'cat >kept <<E\n$PARAM_A.\nE\nshow "$(cat kept)" ${{ a }}': lambda a: [f"{a}.", a],
    "cat <<'E' >/dev/null; show ${{ a }}\n'\" $( ` unbalanced\nE\nshow ${{ a }}": lambda a: [a, a],
    "cat <<-E >/dev/null\n\tx\n\tE\nshow ${{ a }} ${HOME:+set} $# $?": lambda a: [a, "set", "0", "0"],
    "show $((2 * ${{ n }} + (1))) ${{ a }}": lambda a: ["-5", a],
    'set -- ${{ a }} x; show "$@"': lambda a: [a, "x"],
    "sh -c 'show \"$1\"' sh ${{ a }}": lambda a: [a],
    "if [ ${{ n }} -lt 0 ] && test 1 -gt ${{ n }}; then show ${{ a }}; fi": lambda a: [a],
    "env -u Q show ${{ a }}": lambda a: [a],
    "command show ${{ a }} && ! false": lambda a: [a],
}
FRAGMENTS = [
    *(
        "'",
        '"',
        "\\",
        "$(touch pwned)",
        "`touch pwned`",
        "$PARAM_B",
        "${PARAM_B}",
        "a[$(touch pwned)]",
        "\n",
        "\r",
        "\t",
        " ",
    ),
    *(
        "*",
        "?",
        "[a-z]*",
        "~",
        ";touch pwned;",
        "&touch pwned&",
        "|touch pwned",
        "#",
        "!",
        "-rf",
        "--",
        "-v",
        "-n",
        "(",
        ")",
    ),
    *("{a,b}", "<kept", ">pwned", "é", "\u202e", "𝔘", "%s", "%n", "$'\\n'", "\x01", "\x7f", "x", "="),
]
VALUES = st.lists(
    st.sampled_from(FRAGMENTS) | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
)


@pytest.fixture(scope="module", params=["dash", "bash"])
def shell(request, tmp_path_factory):
    """A shell under the name sh, for that is how /bin/sh is called wherever it is that shell."""
    found = shutil.which(request.param)
    if found is None:
        pytest.skip(f"no {request.param} here")
    link = tmp_path_factory.mktemp("shells") / "sh"
    link.symlink_to(found)
    return str(link)


class Place:
    """A folder in which `show` and nothing else happens."""

    def __init__(self, folder: Path, shell: str) -> None:
        self.folder, self.shell = folder, shell
        self.bin = folder / "bin"
        self.bin.mkdir()
        (self.bin / "show").write_text(SHOW)
        (self.bin / "show").chmod(0o755)
        (self.bin / "sh").symlink_to(shell)
        self.work = folder / "work"

    def run(self, text, **variables):
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        record = self.folder / "record"
        record.write_bytes(b"")
        done = subprocess.run(
            [self.shell, "-c", text],
            cwd=self.work,
            env={
                "PATH": f"{self.bin}:/usr/bin:/bin",
                "HOME": "/",
                "RECORD": str(record),
                "LANG": "C.UTF-8",
                **variables,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=30,
        )
        assert not (self.work / "pwned").exists(), text
        words = record.read_bytes().decode().split("\0")[:-1]
        return done, words


@pytest.fixture(scope="module")
def place(shell, tmp_path_factory):
    return Place(tmp_path_factory.mktemp("place"), shell)


@pytest.mark.parametrize("text", CONTEXTS)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(value=VALUES.map("".join))
@example("$(touch pwned)`touch pwned`'\"; touch pwned; *\n-n é\\")
@example("-v")
@example("a[$(touch pwned)]")
@example("")
def test_a_value_arrives_exactly_and_runs_nothing(place, text, value):
    compiled = compile_line(text, KINDS)
    assert compiled.faults == []
    expected = CONTEXTS[text](value)
    done, words = place.run(compiled.shell, PARAM_A=value, PARAM_B="two", PARAM_N="-3")
    if "$(" in text and "<<" not in text and "show $(show" in text:
        words = words[:1]  # what the outer one gets is nothing: the inner prints nothing
    assert (done.returncode, words) == (0, expected), (compiled.shell, done.stderr)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    words=st.lists(
        st.lists(st.sampled_from([*FRAGMENTS, "${{ a }}", "${{b}}"]) | st.just("x")).map("".join), max_size=5
    ),
    value=VALUES.map("".join),
)
def test_an_argv_arrives_word_for_word(place, words, value):
    shell, faults = compile_words(["show", *words], KINDS)
    assert faults == []
    done, shown = place.run(f"exec {shell}", PARAM_A=value, PARAM_B="two")
    expected = [word.replace("${{ a }}", "\0").replace("${{b}}", "two").replace("\0", value) for word in words]
    # With no words printf still prints one empty string.
    assert (done.returncode, shown) == (0, expected or [""]), (shell, done.stderr)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(value=VALUES.map("".join))
def test_a_variable_is_put_together_exactly(place, value):
    compiled = compile_value("it's <${{ a }}|${{ b }}>", KINDS)
    done, shown = place.run(f'export E={compiled.shell}; show "$E"', PARAM_A=value, PARAM_B="two")
    assert (done.returncode, shown) == (0, [f"it's <{value}|two>"])


@pytest.mark.parametrize(
    ("text", "told", "hint"),
    [
        ("echo '${{ a }}'", "in single quotes", "double quotes"),
        ("echo hi # ${{ a }}", "in a comment", "Leave it away"),
        ("cat <<E\n${{ a }}\nE", "in a here-document", "Write $PARAM_A there: its lines"),
        ("cat <<'E'\n${{ a }}\nE", "in a here-document", "take the quotes off"),
        ("cat <<${{ a }}\nx\n", "delimiter is no plain word", '"$PARAM_A"'),
        ("echo \\${{ a }}", "a backslash stands before", "Leave it away"),
        ('echo "\\${{ a }}"', "a backslash stands before", "Leave it away"),
        ("echo ${{ a", "never closed", "${{ name }}"),
        ("echo ${{ }}", "no parameter ''", "a, b, n"),
        ("echo ${{ aa }}", "no parameter 'aa'", "Did you mean 'a'"),
        ("echo ${{ a b }}", "no parameter 'a b'", ""),
        ("echo `echo ${{ a }}`", "backticks", "$PARAM_A"),
        ("echo \"`echo x`\" ${{ a }}", "backticks", ""),
        ("echo ${X:-${{ a }}}", "an expansion", ""),
        ("echo ${X:-'}'} ${{ a }}", "an expansion", ""),
        ("echo $'x' ${{ a }}", "which not every sh knows", ""),
        ('echo $"x" ${{ a }}', "which not every sh knows", ""),
        ("cat <<<${{ a }}", "`<<<`", ""),
        ("((x = 1)); echo ${{ a }}", "`((`", ""),
        ("echo $((${{ a }}))", "only a number", "type: int"),
        ("echo $(( $(x) + ${{ n }} ))", "within $((", ""),
        ("echo $(case x in x) echo ${{ a }};; esac)", "a `case` within", ""),
        ("echo 'x ${{ a }}", "never closed", ""),
        ('echo "x ${{ a }}', "never closed", ""),
        ("echo $(x ${{ a }}", "never closed", ""),
        ("echo ${{ a }} " + "$(" * 3000, "nest too deep", ""),
        ("echo" + " ${{ a }}" * 201, "201 placeholders", ""),
        ("${{ a }}", "choose the program", "PARAM_A"),
        ('"${{ a }}" x', "choose the program", ""),
        ("/usr/bin/${{ a }}", "choose the program", ""),
        ("true && ${{ a }}", "choose the program", ""),
        ("if ${{ a }}; then :; fi", "choose the program", ""),
        ("X=1 ${{ a }}", "choose the program", ""),
        ("2>/dev/null ${{ a }}", "choose the program", ""),
        ("exec ${{ a }}", "choose the program", ""),
        ("env -i A=b ${{ a }}", "choose the program", ""),
        ("(${{ a }})", "choose the program", ""),
        ("echo $(${{ a }})", "choose the program", ""),
        ("eval ${{ a }}", "eval takes", ""),
        ('eval "x ${{ a }}"', "eval takes", ""),
        ("ev\\al ${{ a }}", "eval takes", ""),
        ("'eval' ${{ a }}", "eval takes", ""),
        (". ${{ a }}", ". takes", ""),
        ("trap ${{ a }} EXIT", "trap takes", ""),
        ("sh -c ${{ a }}", "what follows -c", ""),
        ('bash -ec "echo ${{ a }}"', "what follows -ec", ""),
        ('kubectl exec x -- /bin/sh -c "ls ${{ a }}"', "what follows -c", ""),
        ('$SHELL -c "echo ${{ a }}"', "what follows -c", ""),
        ("su -c ${{ a }} x", "what follows -c", ""),
        ('ssh host "ls ${{ a }}"', "ssh hands", ""),
        ('python3.12 -c "print(${{ a }})"', "taken for code", ""),
        ('perl -ne "${{ a }}"', "taken for code", ""),
        ('sed "s/x/${{ a }}/"', "sed takes", ""),
        ("awk \"/${{ a }}/\" x", "awk would", "PARAM_A"),
        ("printf ${{ a }} x", "format", ""),
        ("printf -v ${{ a }} x", "format", ""),
        ("[ -v ${{ a }} ]", "variable's name", ""),
        ("[ ${{ a }} ${{ b }} ]", "operator", ""),
        ("[[ ${{ a }} -eq 1 ]]", "[[ takes", ""),
        ("let ${{ a }}", "let takes", ""),
        ("unset ${{ a }}", "variable's name", ""),
        ("read ${{ a }}", "variable's name", ""),
        ("export ${{ a }}", "variable's name", ""),
        ("export ${{ a }}=1", "variable's name", ""),
        ("set ${{ a }}", "for options", ""),
        ("PATH=${{ a }} x", "decides what code runs", ""),
        ("export LD_PRELOAD=${{ a }}", "decides what code runs", ""),
        ("echo x >&${{ a }}", "expands what follows >& twice", ""),
        ("echo x 2>&1${{ a }}", "expands what follows >& twice", ""),
        ("[ 1 -eq ${{ a }} ]", "compare as numbers", ""),
        ("[ ${{ a }} -gt 1 ]", "compare as numbers", ""),
        ("IFS=${{ a }}", "decides what code runs", ""),
    ],
)  # fmt: skip
def test_where_no_placeholder_can_stand(text, told, hint):
    [fault, *_] = compile_line(text, KINDS).faults
    assert told in fault.text
    assert hint in fault.hint


def test_every_fault_of_a_line_is_found_with_its_placeholder():
    faults = compile_line("echo '${{ a }}' ${{ b }} ${{ c }} # ${{ a }}", KINDS).faults
    assert [fault.ordinal for fault in faults] == [0, 2, 3]


@pytest.mark.parametrize(
    "words",
    [
        ["sh", "-c", "echo ${{ a }}"],
        ["echo", *["${{ a }}"] * 201],
        ["${{ a }}"],
        ["env", "${{ a }}"],
        ["ssh", "h", "${{ a }}"],
        ["echo", "${{ x }}"],
    ],
)
def test_an_argv_has_the_same_rules(words):
    assert compile_words(words, KINDS)[1]


def test_a_command_without_placeholders_is_left_alone():
    text = "echo `date` $'x' ${X:-\"$(y)\"} <<<z 'open"
    assert compile_line(text, KINDS) == (text, [])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from([*FRAGMENTS, "${{ a }}", "${{ n }}", "$((", "))", "$(", "<<E", "\nE\n", "case", "`", "${"])
    )
)
def test_any_text_is_compiled_or_refused(pieces):
    compiled = compile_line("show " + "".join(pieces), KINDS)
    assert compiled.faults or "${{" not in compiled.shell


# Pieces of shell text, to be thrown together. A text that hides what surrounds a placeholder would have its value run.
PIECES = [
    "${{ a }}",
    "${{ a }}",
    "${{ a }}",
    "${{ b }}",
    '"',
    '"',
    "'",
    " ",
    ";",
    "\n",
    "$(",
    ")",
    "(",
    "echo ",
    "x=",
    "$((",
    "))",
    "1",
    "\\",
    "\\\n",
    "<<E",
    "<<'E'",
    "<<-E",
    "\nE\n",
    "\n\tE\n",
    "&&",
    ">kept",
    "#",
    "{ ",
    "; }",
    "${X}",
    "$X",
    "if :; then ",
    "; fi",
    "[ ",
    " ]",
    "=",
    "case x in x) ",
    ";; ",
    "esac",
    "for i in ",
    "; do ",
    "; done",
    "eval ",
    "sh -c ",
    "test ",
    "export ",
    "printf ",
    "f() ",
    "!",
    "2>&1",
]
PIECES += ["|", "||"]
ATTACKS = ["$(touch pwned)", "`touch pwned`", "; touch pwned;", "\ntouch pwned\n", "' touch pwned '", '" touch pwned "']
ATTACKS += ["a[$(touch pwned)]", "-v", ") touch pwned (", "\nE\ntouch pwned\n"]
# Raised for a long search: RUNVOY_TEST_TEXTS=20000.
TEXTS = int(os.environ.get("RUNVOY_TEST_TEXTS", "200"))


@settings(max_examples=TEXTS, deadline=None, suppress_health_check=list(HealthCheck))
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=14), values=st.tuples(*[st.sampled_from(ATTACKS)] * 2))
def test_whatever_is_not_refused_runs_nothing_of_a_value(place, pieces, values):
    """Most of these texts are no valid shell; what matters is that none of them hides where a placeholder stands."""
    compiled = compile_line("echo " + "".join(pieces), KINDS)
    if not compiled.faults:
        place.run(compiled.shell, PARAM_A=values[0], PARAM_B=values[1])


# --- a whole playbook ---------------------------------------------------------------------------------------------------


def compiled_playbook(text):
    return compiling.shell_text(reader.read("demo", Path("demo.yml"), text))


STEPS = """
parameters:
  stage: {enum: ["it's", prod, "a|b", "*"], default: prod}
  count: {type: int, default: 1}
  sure: {type: bool, default: false}
  name: {pattern: "^[a-z]{2,4}(-[0-9]+)?$", required: false}
  free: {}
commands:
  - show 1 "${{ stage }}" "${{ count }}" "${{ sure }}" "${{ name }}" "${{ free }}"
"""


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({"PARAM_FREE": ""}, ["1", "prod", "1", "false", "", ""]),
        ({"PARAM_FREE": "x", "PARAM_STAGE": "it's"}, ["1", "it's", "1", "false", "", "x"]),
        ({"PARAM_FREE": "x", "PARAM_STAGE": "*"}, ["1", "*", "1", "false", "", "x"]),
        ({"PARAM_FREE": "x", "PARAM_COUNT": "-12"}, ["1", "prod", "-12", "false", "", "x"]),
        ({"PARAM_FREE": "x", "PARAM_NAME": "ab-1"}, ["1", "prod", "1", "false", "ab-1", "x"]),
        ({"PARAM_FREE": "x", "PARAM_SURE": "true"}, ["1", "prod", "1", "true", "", "x"]),
    ],
)
def test_values_are_checked_where_the_command_runs_and_defaults_are_there(place, variables, shown):
    done, words = place.run(compiled_playbook(STEPS), **variables)
    assert (done.returncode, words) == (0, shown), done.stderr


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({}, "free is missing"),
        ({"PARAM_FREE": "x", "PARAM_STAGE": "a"}, "stage must be"),
        ({"PARAM_FREE": "x", "PARAM_STAGE": "prodx"}, "stage must be"),
        ({"PARAM_FREE": "x", "PARAM_STAGE": ""}, "stage must be"),
        ({"PARAM_FREE": "x", "PARAM_COUNT": ""}, "count must be"),
        ({"PARAM_FREE": "x", "PARAM_COUNT": "1+1"}, "count must be"),
        ({"PARAM_FREE": "x", "PARAM_COUNT": "a[$(touch pwned)]"}, "count must be"),
        ({"PARAM_FREE": "x", "PARAM_COUNT": "1\n2"}, "count must be"),
        ({"PARAM_FREE": "x", "PARAM_COUNT": "--1"}, "count must be"),
        ({"PARAM_FREE": "x", "PARAM_COUNT": "-"}, "count must be"),
        ({"PARAM_FREE": "x", "PARAM_COUNT": "01"}, "count must be"),
        ({"PARAM_FREE": "x", "PARAM_COUNT": "9" * 30}, "count must be"),
        ({"PARAM_FREE": "x", "PARAM_COUNT": "٣"}, "count must be"),
        ({"PARAM_FREE": "x", "PARAM_SURE": "True"}, "sure must be"),
        ({"PARAM_FREE": "x", "PARAM_NAME": "ab-"}, "name must match"),
        ({"PARAM_FREE": "x", "PARAM_NAME": "ab\nab"}, "name must match"),
        ({"PARAM_FREE": "x", "PARAM_NAME": "ab\n"}, "name must match"),
        ({"PARAM_FREE": "x", "PARAM_NAME": "-e"}, "name must match"),
    ],
)
def test_who_goes_round_the_client_is_refused_beside_the_command(place, variables, told):
    done, words = place.run(compiled_playbook(STEPS), **variables)
    assert (done.returncode, words) == (2, [])
    assert f"playbook demo: the parameter {told}" in done.stderr.decode()


def test_commands_run_in_order_are_announced_and_stop_at_the_first_failure(place):
    text = """
commands:
  - show one
  - |
    show two
    (exit 7)
    show never
  - show never
"""
    done, words = place.run(compiled_playbook(text))
    assert (done.returncode, words) == (7, ["one", "two"])
    assert done.stdout == b""
    assert done.stderr.decode().splitlines() == ["playbook demo: 1 of 3: show one", "playbook demo: 2 of 3: show two …"]


@pytest.mark.parametrize(
    "command", ["exit 3", "kill -TERM $$", "nonexistent-program", "if", "show )", "show 'open", "cat <<E"]
)
def test_a_command_that_is_broken_breaks_no_other(place, command):
    text = f"commands:\n  - show first\n  - {command!r}\n  - show last\n"
    done, words = place.run(compiled_playbook(text))
    if command == "cat <<E":  # every sh takes the end of the text for the end of the document
        assert (done.returncode, words) == (0, ["first", "last"])
    else:
        assert done.returncode != 0
        assert words == ["first"]


def test_an_argv_is_a_program_and_no_builtin(place):
    (place.bin / "echo").write_text(SHOW)
    (place.bin / "echo").chmod(0o755)
    done, words = place.run(compiled_playbook("commands: [[echo, -n, 'a\\tb', '$(touch pwned)']]"))
    (place.bin / "echo").unlink()
    assert (done.returncode, words) == (0, ["-n", "a\\tb", "$(touch pwned)"])


@pytest.mark.parametrize("words", ["[]", "['']", "[-x]", "[a, [b]]", "[~]"])
def test_an_argv_begins_with_a_program(words):
    with pytest.raises(BadPlaybook):
        compiled_playbook(f"commands: [{words}]")
