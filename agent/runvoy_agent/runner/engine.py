"""The command lines that docker and podman are asked with, and what their answers mean. No I/O.

The runner and the launcher share these: a container is named after its execution, so a second one cannot be made, and
labelled with it, so that a stranger's container of that name is not taken for ours.
"""

from __future__ import annotations

import json

EXECUTION_LABEL = "runvoy.execution"
ATTEMPT_LABEL = "runvoy.attempt"
VARIABLE = "RUNVOY_CONTAINER"
"""The variable of a runner's environment that holds its container's spec. Without it a runner runs host processes; it
comes with the process itself, so no lost or spoiled file can turn a container into a host process."""

CHECKOUT_PARENT = "/runvoy"
CHECKOUT = f"{CHECKOUT_PARENT}/work"
"""Where in a container the checkout of a repository is, as in a task on AWS."""

_STATE = "[{{json .State}},{{json .Config.Labels}}]"
_LINE_BYTES = 64 * 1024  # of an --env-file: the clients' scanner takes no longer line
_CPU_UNITS = 1024  # of one vCPU, as in an ECS task
_GONE = ("no such container", "no such object", "no container with name or id")

# What the client itself, Go's runtime, the C library, the loader or a helper of theirs may read. A variable of such a
# name must not be in the client's environment: LD_PRELOAD would be code on the host, HOME another storage, DOCKER_HOST
# another engine.
_CLIENTS_NAMES = frozenset(
    [
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "PWD",
        "OLDPWD",
        "TMPDIR",
        "TMP",
        "TEMP",
        "TZ",
        "TZDIR",
        "LANG",
        "LANGUAGE",
        "TERM",
        "COLUMNS",
        "LINES",
        "IFS",
        "ENV",
        "BASH_ENV",
        "LOCPATH",
        "NLSPATH",
        "GCONV_PATH",
        "HOSTALIASES",
        "LOCALDOMAIN",
        "RES_OPTIONS",
        "NOTIFY_SOCKET",
        "ZONEINFO",
        "GNUPGHOME",
        "RUNVOY_CONTAINER",
        "NO_COLOR",
        "INVOCATION_ID",
        "JOURNAL_STREAM",
        "TMPDIR_ROOTLESS",
        # Names and no prefixes, for SSH_PRIVATE_KEY and SSL_KEY are what keys are mostly called, and have line breaks.
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "SSH_AGENT_PID",
        "SSH_ASKPASS",
        "SSH_ASKPASS_REQUIRE",
        "SSH_AUTH_SOCK",
        "SSH_CLIENT",
        "SSH_CONNECTION",
        "SSH_ORIGINAL_COMMAND",
        "SSH_PKCS11_HELPER",
        "SSH_SK_HELPER",
        "SSH_SK_PROVIDER",
        "SSH_TTY",
        "SSH_TUNNEL",
        "SSH_USER_AUTH",
        "SSH_USE_STRONG_RNG",
    ]
)
_CLIENTS_PREFIXES = (
    *(
        "LD_",
        "DYLD_",
        "GLIBC_",
        "MALLOC_",
        "LC_",
        "GO",
        "CGO_",
        "XDG_",
        "DBUS_",
        "LISTEN_",
        "WATCHDOG_",
    ),
    *("DOCKER_", "MOBY_", "BUILDKIT_", "CONTAINER", "PODMAN_", "LIBPOD_", "BUILDAH_", "STORAGE_", "REGISTRY_", "CNI_"),
    *("NETAVARK_", "AARDVARK_", "RUNC_", "OTEL_", "GRPC_", "PYTHON", "_"),
)


class Spec:
    """What a container is to be. `engine` is the client's path; `kind` how it takes its arguments."""

    def __init__(
        self, engine: str, image: str, cpu: int | None, memory_mib: int | None, platform: str | None = None
    ) -> None:
        self.engine = engine
        self.image = image
        self.cpu = cpu
        self.memory_mib = memory_mib
        self.platform = platform

    @property
    def is_podman(self) -> bool:
        return "podman" in self.engine.rpartition("/")[2]

    def encode(self) -> str:
        return json.dumps(self.__dict__)


def decode(text: str | bytes) -> Spec:
    """Raises ValueError, TypeError or KeyError."""
    fields = json.loads(text)
    limits = (fields["cpu"], fields["memory_mib"])
    if not isinstance(fields["engine"], str) or not fields["engine"].startswith("/"):
        raise ValueError("the engine's path is not absolute")
    if not isinstance(fields["image"], str) or not all(limit is None or type(limit) is int for limit in limits):
        raise TypeError("the image is no text, or a limit no number")
    platform = fields.get("platform")  # a run that began before there were any has none
    if platform is not None and not isinstance(platform, str):
        raise TypeError("the platform is no text")
    return Spec(fields["engine"], fields["image"], *limits, platform)


class State:
    """What an engine knows of a container. `status`: running, created, exited, …; `gone`: it has none, or a stranger's;
    `silent`: the engine did not answer, so nobody knows."""

    def __init__(self, status: str, exit_code: int = 0, oom_killed: bool = False, error: str = "") -> None:
        self.status = status
        self.exit_code = exit_code
        self.oom_killed = oom_killed
        self.error = error

    @property
    def may_run(self) -> bool:
        return self.status in ("running", "paused", "restarting", "stopping", "removing", "silent")

    @property
    def never_ran(self) -> bool:
        return self.status in ("created", "configured", "initialized")


def name(execution_id: str) -> str:
    """The name of an execution's container."""
    return f"runvoy-{execution_id}"


def image_problem(image: str) -> str:
    """Why this cannot be an image's name; empty if it can. An engine's own rules are for the engine."""
    if not image:
        return "a container needs an image: name one with --image"
    if image.startswith("-") or not image.isprintable() or " " in image:
        return f"{image!r} is no image's name"
    return ""


def has_image(spec: Spec) -> list[str]:
    """Ask for the image, whichever platform's is here; the answer is that platform."""
    return [spec.engine, "image", "inspect", "--format", "{{.Os}}/{{.Architecture}}", spec.image]


def pull(spec: Spec) -> list[str]:
    return [spec.engine, "pull", *_platform(spec), spec.image]


def _platform(spec: Spec) -> list[str]:
    return [] if spec.platform is None else ["--platform", spec.platform]


def create(
    spec: Spec, execution_id: str, attempt: int, argv: list[bytes], variables: Variables, work_dir: str = ""
) -> list[bytes]:
    """Make the container, which claims its name.

    The image's ENTRYPOINT gives way to the command's first word, so the command is run as it was signed. stdin is empty,
    there is no terminal, the network is the engine's default, no folder of the host is mounted, the working directory and
    the user are the image's; but for a command in a checkout, which begins in `work_dir`. The engine keeps no log: it would be a second one, unmasked and without bounds.
    """
    words = [spec.engine, "create", "--pull", "never", "--name", name(execution_id)]
    words += ["--label", f"{EXECUTION_LABEL}={execution_id}", "--label", f"{ATTEMPT_LABEL}={attempt}"]
    # An init of the engine's is process 1, or SIGTERM would do nothing to a command that has no handler for it.
    words += ["--init", "--log-driver", "none", *_platform(spec)]
    if spec.is_podman:
        words += ["--http-proxy=false"]  # podman hands on the host's proxy variables unless told otherwise
    if work_dir:
        words += ["--workdir", work_dir]
    if spec.cpu is not None:
        words += ["--cpus", f"{spec.cpu / _CPU_UNITS:.6f}".rstrip("0").rstrip(".")]
    if spec.memory_mib is not None:
        words += ["--memory", f"{spec.memory_mib}m", "--memory-swap", f"{spec.memory_mib}m"]
    encoded = [word.encode("utf-8", "surrogateescape") for word in words]
    encoded += [b"--env=" + named for named in sorted(variables.passed)]
    if variables.listed:
        encoded += [b"--env-file", variables.path.encode()]
    entrypoint = argv[0]
    if spec.is_podman:  # takes a JSON list for what it is; a word that looks like one must not be taken for it
        entrypoint = json.dumps([argv[0].decode("utf-8", "surrogateescape")], ensure_ascii=False).encode(
            "utf-8", "surrogateescape"
        )
    return [*encoded, b"--entrypoint", entrypoint, b"--", spec.image.encode(), *argv[1:]]


def copy(spec: Spec, execution_id: str, folder: str) -> list[str]:
    """Copy what is in the folder into the created container, at CHECKOUT_PARENT. A copy, and no mount: what the command does
    to it stays in the container, and an engine on another machine takes it as well."""
    return [spec.engine, "cp", f"{folder}/.", f"{name(execution_id)}:{CHECKOUT_PARENT}"]


def start(spec: Spec, execution_id: str) -> list[str]:
    """Start it with stdout and stderr attached; in the foreground until it ends."""
    return [spec.engine, "start", "--attach", name(execution_id)]


def attach(spec: Spec, execution_id: str) -> list[str]:
    """Attach to it again; in the foreground until it ends."""
    return [spec.engine, "attach", "--no-stdin", "--sig-proxy=false", name(execution_id)]


def kill(spec: Spec, execution_id: str, signal_name: str) -> list[str]:
    return [spec.engine, "kill", "--signal", signal_name, name(execution_id)]


def wait(spec: Spec, execution_id: str) -> list[str]:
    """Return when it does not run any more."""
    return [spec.engine, "wait", name(execution_id)]


def inspect(spec: Spec, execution_id: str) -> list[str]:
    return [spec.engine, "container", "inspect", "--format", _STATE, name(execution_id)]


def remove(spec: Spec, execution_id: str) -> list[str]:
    """Remove it with its anonymous volumes; refused by the engine while it runs."""
    return [spec.engine, "rm", "--volumes", name(execution_id)]


def read_state(execution_id: str, exit_code: int, stdout: bytes, stderr: bytes) -> State:
    """What `inspect` said."""
    if exit_code != 0:
        said = stderr.decode(errors="replace")
        return State("gone" if any(sign in said.lower() for sign in _GONE) else "silent", error=said.strip())
    try:
        state, labels = json.loads(stdout)
        if (labels or {}).get(EXECUTION_LABEL) != execution_id:
            return State("gone", error="a container of that name is not runvoy's")
        return State(
            str(state["Status"]).lower(),
            int(state["ExitCode"]),
            bool(state.get("OOMKilled")),
            str(state.get("Error") or ""),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return State("silent", error=f"the engine's answer cannot be read: {error!r}")


class Variables:
    """How a container's variables reach the engine's client without standing in its arguments.

    `passed` are set in the client's own environment and named by `--env=NAME`: exact, whatever the value. `listed` have
    names that would mean something to the client, so they go through an `--env-file` at `path`, open as `fd`. What would not
    arrive exactly is `refused`: what such a file cannot hold, and bytes that are not UTF-8, for engines keep a container's
    variables as JSON, and silently put U+FFFD in their place.
    """

    path = ""
    fd = 0

    def __init__(self, variables: dict[bytes, bytes]) -> None:
        self.passed: dict[bytes, bytes] = {}
        self.listed: dict[bytes, bytes] = {}
        self.refused = ""
        for named, value in variables.items():
            text = named.decode("utf-8", "replace")
            if not (text.isascii() and text.isidentifier()):
                self.refused = f"{text!r} cannot be a variable of a container"
            elif not _is_utf8(value):
                self.refused = (
                    f"the variable {text} holds bytes that are not UTF-8, which no container engine keeps; "
                    "encode them, in base64 say, and decode them in the command"
                )
            elif not _is_clients(text):
                self.passed[named] = value
            elif problem := _line_problem(named, value):
                self.refused = f"the variable {text} means something to the engine's client, so it cannot {problem}"
            else:
                self.listed[named] = value

    def file(self) -> bytes:
        """The content of the `--env-file`."""
        return b"".join(b"%s=%s\n" % item for item in sorted(self.listed.items()))


def _line_problem(named: bytes, value: bytes) -> str:
    if b"\n" in value or b"\r" in value:
        return "hold a line break"
    if len(named) + 1 + len(value) >= _LINE_BYTES:
        return f"be longer than {_LINE_BYTES:,} bytes"
    return ""


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_clients(variable: str) -> bool:
    upper = variable.upper()  # http_proxy is read in both cases
    if upper.startswith("GOOGLE_"):
        return False  # no part of Go's runtime; what holds credentials of it is JSON, with line breaks
    return upper in _CLIENTS_NAMES or upper.startswith(_CLIENTS_PREFIXES) or upper.endswith("_PROXY")
