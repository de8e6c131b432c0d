"""What can be cloned: the forms of a repository's address, of a ref and of a folder in it, and by which variables a run says
the rest. All of it becomes arguments of git, so what git would take for more than a name is refused here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Literal

Transport = Literal["https", "http", "ssh", "file"]

TOKEN = "RUNVOY_GIT_TOKEN"
SSH_KEY = "RUNVOY_GIT_SSH_KEY"
KNOWN_HOSTS = "RUNVOY_GIT_KNOWN_HOSTS"
CERTIFICATES = "RUNVOY_GIT_CERTIFICATES"
CREDENTIALS = (TOKEN, SSH_KEY, KNOWN_HOSTS, CERTIFICATES)
"""A secret with one of these as its variable is for the clone: the command does not get it."""

DEPTH = "GIT_DEPTH"
"""The variable of a run that says how many commits are fetched; 0 is all of them. Without it one."""
DEFAULT_DEPTH = 1
MAX_DEPTH = 1_000_000

MAX_REPO_LENGTH = 2048
MAX_REF_LENGTH = 256
MAX_PATH_LENGTH = 1024

_HOST = r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9])?)"
_PORT = r"(?P<port>:[0-9]{1,5})?"
_USER = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}"
_PATH = r"(?:/[^\s\\]+)"
_WEB = re.compile(rf"(?P<scheme>https?)://{_HOST}{_PORT}{_PATH}\Z")
_SSH = re.compile(rf"ssh://(?:{_USER}@)?{_HOST}{_PORT}{_PATH}\Z")
_SSH_SHORT = re.compile(rf"{_USER}@{_HOST}:(?!:)[^\s\\:-][^\s\\]*\Z")
_LOCAL = re.compile(r"(?:file://)?/[^\\]*\Z")
_USERINFO = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]*@")
_LOOPBACK = re.compile(r"(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])\Z", re.IGNORECASE)
# What git-check-ref-format refuses, and what means something where git takes a ref: + : ^ ~ * and so on.
_NO_REF = re.compile(r"[\s~^:?*\[\\\x7f]|\.\.|@\{|//|/\.|\.lock(?:/|\Z)|[/.]\Z|\A[-+/.@]")
_FORMS = "https://HOST/PATH, ssh://USER@HOST/PATH, USER@HOST:PATH, or on one machine file:///PATH or /PATH"


def transport(repo: str) -> Transport | None:
    """How a repository's address is reached; None if it is none of the forms that are known."""
    if found := _WEB.match(repo):
        return "http" if found["scheme"] == "http" else "https"
    if _SSH.match(repo) or _SSH_SHORT.match(repo):
        return "ssh"
    return "file" if _LOCAL.match(repo) else None


def is_of_the_machine(repo: str) -> bool:
    """Whether the address, a good one, means the machine that clones: its disk, or a server on its loopback interface."""
    found = _WEB.match(repo)
    return transport(repo) == "file" or (found is not None and _LOOPBACK.match(found["host"]) is not None)


def problems(repo: str, ref: str, path: str) -> Iterator[str]:
    """Why this cannot be cloned. What is wrong is not quoted: it may hold a token."""
    for field, text, most in (
        ("git_repo", repo, MAX_REPO_LENGTH),
        ("git_ref", ref, MAX_REF_LENGTH),
        ("git_path", path, MAX_PATH_LENGTH),
    ):
        if len(text) > most or not text.isprintable() or text.startswith("-"):
            yield f"{field} is over {most} characters, not printable, or begins with a dash"
            return
    problem = _repo_problem(repo)
    if problem:
        yield problem
    if ref and _NO_REF.search(ref):
        yield "git_ref is no name of a branch or tag, and no SHA"
    if path and any(part in ("", ".", "..") or part.lower() == ".git" for part in path.rstrip("/").split("/")):
        yield "git_path must be a folder of the repository, like envs/prod: no / at its beginning, no . or .. in it, no .git"


def _repo_problem(repo: str) -> str:
    if not repo:
        return "git_repo is empty"
    kind = transport(repo)
    if kind == "http" and not is_of_the_machine(repo):
        return "git_repo is an http:// address, which anybody on its way can read and change; write https://"
    if kind is not None:
        return ""
    if _USERINFO.match(repo):
        return (
            "git_repo holds a user or a password; an address is for everybody to read: leave it out, and name a secret whose "
            f"variable is {TOKEN}"
        )
    return f"git_repo is none of the addresses that can be cloned: {_FORMS}"


def depth_problem(env: Mapping[str, str]) -> str:
    """Why the variable GIT_DEPTH cannot be a depth; empty if it can, or is not set."""
    text = env.get(DEPTH, str(DEFAULT_DEPTH))
    if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_DEPTH)) and int(text) <= MAX_DEPTH:
        return ""
    return f"the variable {DEPTH} must be a number of commits up to {MAX_DEPTH:,}, or 0 for all"


def depth(env: Mapping[str, str]) -> int:
    """How many commits are to be fetched; 0: all. The variable was checked."""
    return int(env.get(DEPTH, DEFAULT_DEPTH))


def credential_problem(env_name: str, repo: str | None) -> str:
    """Why a secret with this variable is of no use for cloning `repo`; empty if it is of use, or is meant for the command."""
    if env_name not in CREDENTIALS:
        return ""
    if repo is None:
        return f"sets {env_name}, which is for cloning, and the request names no repository"
    is_for_web = env_name in (TOKEN, CERTIFICATES)
    if transport(repo) in (("http", "https") if is_for_web else ("ssh",)):
        return ""
    return f"sets {env_name}, which is for {'HTTPS' if is_for_web else 'SSH'}, and the repository's address is another"
