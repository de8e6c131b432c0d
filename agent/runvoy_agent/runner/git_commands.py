"""The command lines and the environment that git is run with, and what its failures mean. No I/O.

git runs with no configuration but what stands here: no file of the machine, of its user or of the repository can name a
program for it to run. No token and no key is in an argument, an address, a file of the checkout or a variable: git's
credential helper and ssh-add read them from a descriptor that they inherit.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection

TOKEN = b"RUNVOY_GIT_TOKEN"
SSH_KEY = b"RUNVOY_GIT_SSH_KEY"
KNOWN_HOSTS = b"RUNVOY_GIT_KNOWN_HOSTS"
CERTIFICATES = b"RUNVOY_GIT_CERTIFICATES"
PUBLIC = {KNOWN_HOSTS: "known_hosts", CERTIFICATES: "certificates"}
"""What is no secret of its host's, and so is a file in git's own folder."""

DEFAULT_USER = b"x-access-token"
"""For a token alone. GitHub, GitLab, Gitea and Azure take any name with a token; where it matters the secret is NAME:TOKEN."""

_PASSED = ("http_proxy", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY")
_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.askPass=",
    "credential.helper=",
    "fetch.recurseSubmodules=false",
    "submodule.recurse=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "advice.detachedHead=false",
    "init.defaultBranch=main",
    "http.lowSpeedLimit=1000",  # bytes a second, for so many seconds: a server that hangs
    "http.lowSpeedTime=60",
)
_BASE = re.compile(r"(https?://[^/]+)/")
_SHA = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64})\Z")
_SHA256_LENGTH = 64

# The agent holds the key in memory, unreadable to others; the key itself is on no disk and in no variable. ssh-add's exit code 2 is
# that nobody answers: the socket is there a moment before somebody listens at it. The agent is waited for at the end, since it
# removes its socket as it ends, and the next step's has the same place.
_WITH_KEY = """\
ssh-agent -D -a "$SSH_AUTH_SOCK" >/dev/null & agent=$!
tries=0
until ssh-add -l >/dev/null 2>&1; [ $? -ne 2 ]; do
  tries=$((tries + 1)); [ $tries -le 250 ] && kill -0 $agent 2>/dev/null || exit {no_agent}
  sleep 0.02
done
ssh-add -q - <{key} || {{ kill $agent; wait $agent; exit {bad_key}; }}
"$@"; code=$?
kill $agent; wait $agent
exit $code
"""
NO_AGENT = 96
BAD_KEY = 97


def is_sha(ref: str) -> bool:
    """Whether a ref is the full SHA of a commit."""
    return _SHA.match(ref) is not None


def is_ssh(repo: str) -> bool:
    return not repo.startswith(("https://", "http://", "file://", "/"))


def protocol(repo: str) -> str:
    """What git calls the way to a repository: the only one it may go."""
    return "ssh" if is_ssh(repo) else "file" if repo.startswith("/") else repo.partition(":")[0]


def environment(
    repo: str, folder: str, machine: dict[bytes, bytes], asked: dict[bytes, bytes], given: Collection[bytes]
) -> dict[bytes, bytes]:
    """The variables of git. `folder` is its home, empty but for what is put there for it; `asked` is what the run sets: the
    proxies among it count. `given` are the variables of the secrets for the clone."""
    has_key, pins_hosts = is_ssh(repo) and SSH_KEY in given, KNOWN_HOSTS in given
    texts = {
        "HOME": folder,
        "XDG_CONFIG_HOME": folder,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_SYSTEM": "/dev/null",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": protocol(repo),
        "GIT_SSH_COMMAND": _ssh(folder, has_key=has_key, pins_hosts=pins_hosts),
        "GIT_SSH_VARIANT": "ssh",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "LC_ALL": "C",
    }
    if has_key:
        texts["SSH_AUTH_SOCK"] = f"{folder}/agent"
    if CERTIFICATES in given:
        texts["GIT_SSL_CAINFO"] = f"{folder}/{PUBLIC[CERTIFICATES]}"
    proxies = {name.encode(): asked[name.encode()] for name in _PASSED if name.encode() in asked}
    kept = {name: machine[name] for name in (b"PATH", b"TMPDIR", b"RUNVOY_EXECUTION_ID") if name in machine}
    return kept | proxies | {name.encode(): text.encode("utf-8", "surrogateescape") for name, text in texts.items()}


def _ssh(folder: str, *, has_key: bool, pins_hosts: bool) -> str:
    """ssh without any file of the user's, whose home it takes from the passwd file and not from HOME."""
    options = {
        "BatchMode": "yes",
        "IdentityFile": "none",
        "IdentityAgent": "SSH_AUTH_SOCK" if has_key else "none",
        "UserKnownHostsFile": f'"{folder}/known_hosts"',
        "GlobalKnownHostsFile": "none",
        "StrictHostKeyChecking": "yes" if pins_hosts else "accept-new",
        "UpdateHostKeys": "no",
        "PermitLocalCommand": "no",
        "ClearAllForwardings": "yes",
        "ControlPath": "none",
        "ConnectTimeout": "30",
        "ServerAliveInterval": "30",
    }
    words = ["ssh", "-F", "none"]
    for name, value in options.items():
        words += ["-o", f"{name}={value}"]
    return shlex.join(words)


def git(work_dir: str, repo: str, token_fd: int | None, *words: str) -> list[str]:
    """A call of git's in the checkout. `token_fd`: what a credential helper is to say, for this host alone."""
    argv = ["git", "-C", work_dir]
    for setting in _SETTINGS:
        argv += ["-c", setting]
    base = _BASE.match(repo)
    if token_fd is not None and base is not None:
        helper = f'!f() {{ if [ "$1" = get ]; then cat /dev/fd/{token_fd}; fi; }}; f'
        argv += ["-c", f"credential.{base[1]}.helper={helper}"]
    return [*argv, *words]


def with_key(key_fd: int, argv: list[str]) -> list[str]:
    """The same with an agent beside it that holds the key which can be read from `key_fd`."""
    script = _WITH_KEY.format(no_agent=NO_AGENT, bad_key=BAD_KEY, key=f"/dev/fd/{key_fd}")
    return ["/bin/sh", "-c", script, "sh", *argv]


def init(ref: str) -> list[str]:
    words = ["init", "--quiet", "--template="]
    return [*words, "--object-format=sha256"] if len(ref) == _SHA256_LENGTH and is_sha(ref) else words


def add_remote(repo: str) -> list[str]:
    return ["remote", "add", "origin", repo]


def candidates(ref: str) -> list[str]:
    """The full names that a ref may stand for, the first that exists counts: a branch before a tag, as `git clone` has it."""
    return [ref] if ref.startswith("refs/") else [f"refs/heads/{ref}", f"refs/tags/{ref}"]


def ask(ref: str) -> list[str]:
    return ["ls-remote", "--quiet", "origin", *candidates(ref)]


def chosen(ref: str, answer: bytes) -> str | None:
    """Which of the candidates the repository has, by what ls-remote said."""
    names = {line.partition("\t")[2] for line in answer.decode("utf-8", "replace").splitlines()}
    return next((name for name in candidates(ref) if name in names), None)


def fetch(what: str, depth: int) -> list[str]:
    """Fetch one ref (full), commit or HEAD, so many commits deep; 0: all, and the tags with it."""
    words = ["fetch", "--quiet", "--no-recurse-submodules"]
    words += ["--no-tags", f"--depth={depth}"] if depth else ["--tags"]
    if what.startswith("refs/heads/"):
        what = f"+{what}:refs/remotes/origin/{what.removeprefix('refs/heads/')}"
    elif what.startswith("refs/tags/"):
        what = f"+{what}:{what}"
    return [*words, "origin", what]


def fetch_all() -> list[str]:
    """Everything, for the server does not hand out a commit by its SHA."""
    return ["fetch", "--quiet", "--no-recurse-submodules", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*"]


def checkout(what: str) -> list[str]:
    return ["checkout", "--quiet", "--force", "--detach", what, "--"]


def head() -> list[str]:
    return ["rev-parse", "--verify", "HEAD^{commit}"]


def credential(token: bytes) -> bytes:
    """What the credential helper says. ValueError for a token that no line can hold."""
    user, password = split_token(token)
    if not password or any(byte in user + password for byte in b"\r\n\0"):
        raise ValueError("the token is empty or holds a line break")
    return b"username=%s\npassword=%s\n" % (user, password)


def split_token(token: bytes) -> tuple[bytes, bytes]:
    """Name and password of a token, which may be NAME:TOKEN."""
    user, colon, password = token.strip().partition(b":")
    return (user, password) if colon else (DEFAULT_USER, user)


_SIGNS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("host key verification failed", "host key for"), "the host's key is not the one in the secret"),
    (
        (
            *("could not resolve host", "connection refused", "connection timed out", "operation timed out"),
            *(
                "failed to connect",
                "couldn't connect",
                "network is unreachable",
                "no route to host",
                "connection reset",
            ),
            *("low speed limit", "operation too slow", "connection closed by", "empty reply from server"),
        ),
        "its host cannot be reached",
    ),
    (
        ("ssl certificate", "certificate verif", "ssl_error", "tls connect error"),
        "its host's TLS certificate is not good",
    ),
    (
        (
            *(
                "authentication failed",
                "could not read username",
                "could not read password",
                "permission denied (publickey",
            ),
            *("permission denied, please try again", "returned error: 401", "returned error: 403", "access denied"),
            "too many authentication failures",
        ),
        "auth",
    ),
    (
        ("not found", "does not appear to be a git repository", "returned error: 404", "does not exist"),
        "there is no such repository, or the credentials may not see it",
    ),
    (("transport '", "protocol '"), "it leads to another kind of address, which is not followed"),
    (("no space left",), "the disk is full"),
)


def reason(said: list[str], *, is_ssh: bool, has_credential: bool) -> str:
    """What git's words mean, in ours; empty if they mean nothing that is known."""
    text = "\n".join(said).lower()
    for signs, meaning in _SIGNS:
        if any(sign in text for sign in signs):
            if meaning != "auth":
                return meaning
            variable = (SSH_KEY if is_ssh else TOKEN).decode()
            if has_credential:
                return f"its host refused the secret that sets {variable}"
            return f"its host asks who this is, and no secret sets {variable}"
    return ""


def is_refused_sha(said: list[str]) -> bool:
    """Whether the server does not hand out commits by their SHA, or none by this one."""
    text = "\n".join(said).lower()
    return any(sign in text for sign in ("not our ref", "unadvertised object", "remote ref", "no such remote ref"))
