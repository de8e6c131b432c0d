"""Where in a command a parameter's value would be taken for code, though the shell sees it as one word.

A value that stands in a word of its own is no code for the shell. It is for `eval`, for `sh -c`, for a remote shell, for the
arithmetic of some builtins (`[ -v 'a[$(x)]' ]` runs x in bash), and in the place of the program's name. What is refused here
has a way out that every message names: the variable itself, which is the author's own business.
"""

from __future__ import annotations

import re

HOLE = "\0"  # a placeholder within a word's literal text: no command can hold this character
NUMBER = "\2"  # after HOLE: that one is checked to be a number
OPAQUE = "\1"  # what only the shell can know: `$x`, `$(…)`

_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_KEYWORDS = frozenset({"if", "then", "else", "elif", "do", "while", "until", "!", "{", "}", "fi", "done", "esac"})
_PREFIXES = frozenset({"exec", "command", "builtin", "env", "nohup", "nice", "time", "sudo", "doas", "setsid", "xargs"})
_SHELLS = frozenset({"sh", "bash", "dash", "ash", "ksh", "mksh", "zsh", "fish", "busybox", "su", "runuser"})
_REMOTE = frozenset({"ssh"})
_READ_AS_CODE = frozenset(
    {"eval", "trap", "alias", ".", "source", "let", "[[", "sed", "enable", "bind", "coproc", "jobs"}
)
_READ_AS_CODE |= {"complete", "compgen", "fc"}
_TAKES_NAMES = frozenset({"unset", "read", "getopts", "mapfile", "readarray", "wait"})
_TESTS = frozenset({"test", "["})
_COMPARES_NUMBERS = frozenset({"-eq", "-ne", "-lt", "-le", "-gt", "-ge"})
_TEXT = re.compile(f"{HOLE}(?!{NUMBER})")
_DECLARES = frozenset({"export", "readonly", "local", "declare", "typeset"})
_AWKS = frozenset({"awk", "gawk", "mawk", "nawk"})
_INTERPRETER = re.compile(r"(python|perl|ruby|node|php|lua)[0-9.]*\Z")
_CODE_OPTION = re.compile(r"-[A-Za-z]*[cer]\Z|--(eval|exec|command)\Z")
_SHELL_OPTION = re.compile(r"-[A-Za-z]*c\Z|--command\Z")
_TEST_OF_A_NAME = frozenset({"-v", "-R"})

# Variables whose value a shell or the loader takes for code, for a place of code, or for its own rules.
_POWERFUL = re.compile(
    r"(ENV|BASH_ENV|PS[0-4]|IFS|PATH|SHELLOPTS|BASHOPTS|PROMPT_COMMAND|LD_.*|DYLD_.*|GIT_SSH_COMMAND|GIT_SSH|EDITOR|PAGER"
    r"|PYTHONPATH|PYTHONSTARTUP|PERL5OPT|RUBYOPT|NODE_OPTIONS|JAVA_TOOL_OPTIONS)\Z"
)


def is_powerful(variable: str) -> bool:
    """Whether a value in this variable may decide what code runs."""
    return _POWERFUL.match(variable) is not None


COMPARED = "some shells reckon out what they compare as numbers; declare it with `type: int`"


def is_compared(before: list[str], operator: str) -> bool:
    """Whether the last of the words `before` holds text that `operator`, the next word, compares as a number."""
    if operator not in _COMPARES_NUMBERS:
        return False
    words = _from_the_program_on(before)
    return bool(words and words[0] in _TESTS and _TEXT.search(words[-1]))


def objection(before: list[str], word: str) -> str:
    """Why no parameter may stand in `word`, which follows the words `before` in one simple command; empty if one may."""
    words = _from_the_program_on(before)
    name = words[0].rpartition("/")[2] if words else ""
    assigned = _ASSIGNMENT.match(word)
    if not words and not assigned:
        return "it would choose the program that runs"
    if assigned and (not words or name in _DECLARES) and is_powerful(assigned[0][:-1]):
        return f"the variable {assigned[0][:-1]} decides what code runs"
    if not words:
        return ""
    return _by_name(name, words, word, assigned is not None) or _by_option(words, word)


def _by_name(name: str, words: list[str], word: str, is_assignment: bool) -> str:
    last = words[-1]
    if name in _READ_AS_CODE:
        return f"{name} takes its words for code"
    if name == "set" and "--" not in words:
        return "set would take it for options; write -- before it"
    if name in _TAKES_NAMES or (name in _DECLARES and not is_assignment):
        return f"{name} would take it for a variable's name"
    if name == "printf" and (len(words) == 1 or last in ("--", "-v")):
        return "printf would take it for its format; use '%s'"
    if name in _TESTS and (last in _TEST_OF_A_NAME or HOLE in last):
        return f"{name} would take it for a variable's name or an operator"
    if name in _TESTS and last in _COMPARES_NUMBERS and _TEXT.search(word):
        return COMPARED
    if name in _AWKS and last != "-v":
        return f"{name} would take it for code; hand it over with -v"
    return ""


def _by_option(words: list[str], word: str) -> str:
    names = {one.rpartition("/")[2] for one in words}
    if names & _REMOTE:
        return "ssh hands its words to a remote shell"
    if (names & _SHELLS or OPAQUE in words[0]) and _SHELL_OPTION.match(words[-1]):
        return f"a shell takes what follows {words[-1]} for code"
    if any(map(_INTERPRETER.match, names)) and _CODE_OPTION.match(words[-1]):
        return f"what follows {words[-1]} is taken for code"
    if HOLE in word and word.startswith("-c") and names & _SHELLS:
        return "a shell takes what follows -c for code"
    return ""


def _from_the_program_on(words: list[str]) -> list[str]:
    """The words without keywords, assignments and programs that only start another one."""
    rest = list(words)
    after_prefix = False
    while rest:
        if rest[0] in _PREFIXES:
            after_prefix = True
        elif not (rest[0] in _KEYWORDS or _ASSIGNMENT.match(rest[0]) or (after_prefix and rest[0].startswith("-"))):
            break
        rest.pop(0)
    return rest
