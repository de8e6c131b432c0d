"""The programs a clone needs: whether they are there, and how they get into a runner's container that lacks them.

That container's own file system cannot be written to. So the packages are unpacked under a folder of their own, from the
image's own repositories and checked by its own keys; their programs find their libraries by a variable.
"""

from __future__ import annotations

import os
import shutil

_OF_SSH = ("openssh-client-default",)


def missing(env: dict[bytes, bytes], *, is_ssh: bool, has_key: bool) -> str:
    """The first program that is needed and not there; empty if all are."""
    needed = ["git", *(["ssh"] if is_ssh else []), *(["ssh-agent", "ssh-add"] if has_key else [])]
    return next((name for name in needed if shutil.which(name, path=_path(env)) is None), "")


def can_install(env: dict[bytes, bytes]) -> bool:
    return shutil.which("apk", path=_path(env)) is not None


def install(folder: str, *, is_ssh: bool) -> list[str]:
    """Alpine's package manager, for a folder of its own. Without packages' scripts: those would be run within the folder."""
    words = ["apk", "add", "--root", folder, "--initdb", "--no-cache", "--no-scripts", "--no-progress", "--quiet"]
    words += ["--keys-dir", "/etc/apk/keys", "--repositories-file", "/etc/apk/repositories", "git"]
    return [*words, *(_OF_SSH if is_ssh else ())]


def environment(env: dict[bytes, bytes], folder: str) -> dict[bytes, bytes]:
    """The environment with what was installed in the folder."""
    root = os.fsencode(folder)
    path = b":".join(root + part for part in (b"/usr/bin", b"/bin", b"/usr/sbin")) + b":" + os.fsencode(_path(env))
    libraries = b":".join(root + part for part in (b"/usr/lib", b"/lib"))
    return env | {b"PATH": path, b"LD_LIBRARY_PATH": libraries, b"GIT_EXEC_PATH": root + b"/usr/libexec/git-core"}


def _path(env: dict[bytes, bytes]) -> str:
    return os.fsdecode(env.get(b"PATH", os.fsencode(os.defpath)))
