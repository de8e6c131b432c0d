"""A container engine for tests: docker's client and daemon in one small program. Containers are host processes.

    fake_engine.py STATE ARGUMENTS...

Files in STATE steer it: `images/NAME` is there (its platform is the
file's text, or linux/amd64), `registry/NAME` can be pulled, `down` no daemon answers, `fails-COMMAND`
that command fails with the file's text, `slow-pull` a pull never ends, `oom` what is killed was killed for want of memory.
`calls` has the arguments of every call. As with a daemon of root's, the processes cannot be told to be an execution's.
"""

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STATE = Path(sys.argv[1])
WAIT_SECONDS = 0.02


class EngineError(Exception):
    """What goes to stderr; the client then ends with 1."""


def file_of(folder: str, name: str) -> Path:
    return STATE / folder / name.replace("/", "_")


def container(name: str) -> Path:
    folder = STATE / "containers" / name
    if not folder.is_dir():
        raise EngineError(f"Error response from daemon: No such container: {name}")
    return folder


def state_of(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = {"Status": "created", "ExitCode": 0, "OOMKilled": False, "Error": ""}
    with contextlib.suppress(FileNotFoundError):
        state.update(json.loads((folder / "failed").read_text()))
    if (folder / "pid").exists():
        state["Status"] = "running"
    with contextlib.suppress(FileNotFoundError):
        state.update(Status="exited", **json.loads((folder / "exit").read_text()))
    return state


def create(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    for flag in (
        "pull",
        "name",
        "log-driver",
        "cpus",
        "memory",
        "memory-swap",
        "entrypoint",
        "env-file",
        "platform",
        "workdir",
    ):
        parser.add_argument(f"--{flag}")
    parser.add_argument("--init", action="store_true")
    parser.add_argument("--label", action="append", default=[])
    parser.add_argument("--env", action="append", default=[])
    end = arguments.index("--")
    options = parser.parse_args(arguments[:end])
    image, *rest = arguments[end + 1 :]
    if options.platform not in (None, platform_of(image)):
        raise EngineError(f"Error response from daemon: image {image} does not match the specified platform")
    env = {name: os.environ[name] for name in options.env}
    if options.env_file:
        env |= dict(line.split("=", 1) for line in Path(options.env_file).read_text().splitlines())
    folder = STATE / "containers" / options.name
    try:
        folder.mkdir()
    except FileExistsError as error:
        raise EngineError(f'Error response from daemon: Conflict. The name "/{options.name}" is in use') from error
    labels = dict(label.split("=", 1) for label in options.label)
    spec = {"argv": [options.entrypoint, *rest], "env": env, "labels": labels, "options": vars(options)}
    (folder / "spec").write_text(json.dumps(spec))
    with contextlib.suppress(FileNotFoundError):
        sys.stderr.write((STATE / "warning").read_text())
    print("f" * 64)


def copy(arguments: list[str]) -> None:
    """Into a created container; `root` is its file system."""
    source, target = arguments
    assert source.endswith("/."), source
    name, _, path = target.partition(":")
    shutil.copytree(source, container(name) / "root" / path.lstrip("/"), symlinks=True, dirs_exist_ok=True)


def start(arguments: list[str]) -> None:
    folder = container(arguments[-1])
    with contextlib.suppress(FileNotFoundError):
        (folder / "failed").write_text((STATE / "fails-to-start").read_text())
        raise EngineError("Error response from daemon: failed to create task for container")
    for stream in ("out", "err"):
        (folder / stream).touch()
    command = [sys.executable, "-I", "-S", __file__, str(STATE), "shim", folder.name]
    log = os.open(STATE / "shim.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    subprocess.Popen(command, env={}, start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    while state_of(folder)["Status"] == "created":
        time.sleep(WAIT_SECONDS)
    follow(folder, 0)


def attach(arguments: list[str]) -> None:
    folder = container(arguments[-1])
    position = (folder / "out").stat().st_size
    (folder / "attached").touch()
    follow(folder, position)


def follow(folder: Path, position: int) -> None:
    """Copy what the container writes, until it ends; then end as it did."""
    with (folder / "out").open("rb") as out, (folder / "err").open("rb") as err:
        out.seek(position)
        ended = False
        while True:
            ended = state_of(folder)["Status"] == "exited"
            for stream, target in ((out, 1), (err, 2)):
                while data := stream.read(65536):
                    os.write(target, data)
            if ended:
                break
            if (STATE / "down").exists():
                sys.exit(1)
            time.sleep(WAIT_SECONDS)
    sys.exit(state_of(folder)["ExitCode"])


def shim(arguments: list[str]) -> None:
    """What the daemon does: run the process, keep its output, write down its end."""
    folder = container(arguments[0])
    spec = json.loads((folder / "spec").read_text())
    env = {"PATH": os.defpath, **spec["env"]}
    env.pop("RUNVOY_EXECUTION_ID", None)
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        try:
            process = subprocess.Popen(
                spec["argv"],
                env=env,
                cwd=folder / "root" / spec["options"]["workdir"].lstrip("/") if spec["options"]["workdir"] else folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
            put(folder / "pid", str(process.pid))
            code = process.wait()
        except OSError as error:
            err.write(f"[FATAL tini (7)] exec {spec['argv'][0]} failed: {error.strerror}\n".encode())
            code = 127 if isinstance(error, FileNotFoundError) else 126
    killed = code == -signal.SIGKILL
    end = {"ExitCode": code if code >= 0 else 128 - code, "OOMKilled": killed and (STATE / "oom").exists()}
    put(folder / "exit", json.dumps(end))


def kill(arguments: list[str]) -> None:
    folder = container(arguments[-1])
    number = signal.Signals[f"SIG{arguments[1]}"]
    if state_of(folder)["Status"] != "running":
        raise EngineError(f"Error response from daemon: cannot kill container: {folder.name}: is not running")
    pid = int((folder / "pid").read_text())
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number) if number == signal.SIGKILL else os.kill(pid, number)


def wait(arguments: list[str]) -> None:
    folder = container(arguments[0])
    while state_of(folder)["Status"] == "running":
        if (STATE / "down").exists():
            raise EngineError("error waiting for container: EOF")
        time.sleep(WAIT_SECONDS)
    print(state_of(folder)["ExitCode"])


def inspect(arguments: list[str]) -> None:
    assert arguments[:2] == ["inspect", "--format"], arguments
    folder = container(arguments[3])
    print(json.dumps([state_of(folder), json.loads((folder / "spec").read_text())["labels"]]))


def image(arguments: list[str]) -> None:
    print(platform_of(arguments[-1]))


def platform_of(name: str) -> str:
    try:
        return file_of("images", name).read_text() or "linux/amd64"
    except FileNotFoundError as error:
        raise EngineError(f"Error response from daemon: No such image: {name}") from error


def remove(arguments: list[str]) -> None:
    folder = container(arguments[-1])
    if state_of(folder)["Status"] == "running":
        raise EngineError("Error response from daemon: cannot remove container: container is running")
    shutil.rmtree(folder)


def pull(arguments: list[str]) -> None:
    wanted = arguments[-1]
    print("latest: Pulling from library/tools", flush=True)
    while (STATE / "slow-pull").exists():
        time.sleep(WAIT_SECONDS)
    if not file_of("registry", wanted).exists():
        raise EngineError(f"Error response from daemon: manifest for {wanted} not found: manifest unknown")
    print("9824c27679d3: Pull complete\nStatus: Downloaded newer image", flush=True)
    platform = arguments[arguments.index("--platform") + 1] if "--platform" in arguments else ""
    file_of("images", wanted).write_text(platform)


def probe(_arguments: list[str]) -> None:
    while (STATE / "slow-run").exists():
        time.sleep(WAIT_SECONDS)


def load(arguments: list[str]) -> None:
    assert len(sys.stdin.buffer.read()) > 512
    file_of("images", arguments[-1]).touch()


def put(path: Path, text: str) -> None:
    draft = path.with_suffix(".new")
    draft.write_text(text)
    draft.rename(path)


COMMANDS = {
    "attach": attach,
    "container": inspect,
    "cp": copy,
    "create": create,
    "image": image,
    "import": load,
    "kill": kill,
    "pull": pull,
    "rm": remove,
    "run": probe,
    "shim": shim,
    "start": start,
    "version": lambda _arguments: print("amd64"),
    "wait": wait,
}


def main() -> int:
    command, *arguments = sys.argv[2:]
    with (STATE / "calls").open("a") as calls:
        fcntl.flock(calls, fcntl.LOCK_EX)
        calls.write(json.dumps(sys.argv[2:]) + "\n")
    if command != "shim" and (STATE / "down").exists():
        print("Cannot connect to the Docker daemon. Is the docker daemon running?", file=sys.stderr)
        return 1
    with contextlib.suppress(FileNotFoundError):
        print((STATE / f"fails-{command}").read_text(), file=sys.stderr)
        return 125
    try:
        COMMANDS[command](arguments)
    except EngineError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
