"""`python -m runvoy_infra.bundling`: make the bundle, in a checkout. Needs uv and the network, but no Docker."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from runvoy_infra import bundle_files
from runvoy_infra.archive import write_zip

CHECKOUT = Path(__file__).parents[2]
GROUP = "aws"
ARCHITECTURES = {"arm64": "aarch64-manylinux2014", "x86_64": "x86_64-manylinux2014"}
DEFAULT_PYTHON = "3.13"
# Of Lambda's own, kept current by AWS; ten times as large as all the rest.
OF_THE_RUNTIME = ("boto3", "botocore", "s3transfer")
# The client's, and what the functions reach only at run time of one machine.
_LEFT_OUT_SUFFIXES = (".pyc", ".pyi", ".c", ".h", ".dist-info/RECORD", ".dist-info/INSTALLER", "/py.typed")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bundling", description="Make the template and the functions' zip.")
    parser.add_argument("--architecture", choices=ARCHITECTURES, default="arm64")
    parser.add_argument("--python", default=DEFAULT_PYTHON, help="the version of Python that the functions run on")
    parser.add_argument("--output", type=Path, default=bundle_files.FOLDER)
    parser.add_argument("--template", type=Path, help="use this template instead of synthesizing one")
    chosen = parser.parse_args(arguments)
    make(chosen.output, chosen.architecture, chosen.python, chosen.template)
    for path in sorted(chosen.output.iterdir()):
        sys.stdout.write(f"{path.stat().st_size:>10,}  {path}\n")
    return 0


def make(output: Path, architecture: str, python: str, template: Path | None = None) -> None:
    """Make all files of the bundle in `output`."""
    output.mkdir(parents=True, exist_ok=True)
    text = template.read_text() if template is not None else _synthesized()
    (output / bundle_files.TEMPLATE).write_text(text)
    make_code(output / bundle_files.CODE, architecture, python)
    about = {"version": _project()["version"], "architecture": architecture, "python": python}
    (output / bundle_files.MANIFEST).write_text(json.dumps(about) + "\n")


def make_code(path: Path, architecture: str, python: str) -> None:
    """The functions' zip: their dependencies for that platform, the protocol and the agent."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _install(folder / "packages", architecture, python)
        files = dict(_dependencies(folder / "packages"))
        for name in ("protocol/runvoy_protocol", "agent/runvoy_agent"):
            part = CHECKOUT / name
            files |= {str(found.relative_to(part.parent)): found for found in part.rglob("*.py")}
        files |= _metadata(folder)
        write_zip(path, files | _byte_code(files, folder / "compiled", python))


def _byte_code(files: Mapping[str, Path], folder: Path, python: str) -> dict[str, Path]:
    """The modules' byte code, which only that very version of Python makes: a function's code lies on a disk that it cannot
    write to, so without it every cold start compiles everything. None where there is no such Python."""
    interpreter = _interpreter(python)
    if interpreter is None:
        sys.stderr.write(
            f"There is no Python {python} here, so the zip has no byte code: functions will start slower.\n"
        )
        return {}
    for name, source in files.items():
        if name.endswith(".py"):
            copy = folder / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(source.read_bytes())
    # By no time of change (the zip has none), and with the places where the functions will find the sources.
    how = ["--invalidation-mode", "unchecked-hash", "-s", str(folder), "-p", "/var/task"]
    command = [interpreter, "-m", "compileall", "-q", *how, str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONHASHSEED": "0"}
    )
    if done.returncode:
        raise SystemExit(f"the functions' code does not compile:\n{done.stdout.strip()}{done.stderr.strip()}")
    return {compiled.relative_to(folder).as_posix(): compiled for compiled in folder.rglob("*.pyc")}


def _interpreter(python: str) -> str | None:
    """A Python of that version: this one, or one that uv or the PATH know."""
    if python == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    found = subprocess.run(
        ["uv", "python", "find", "--no-project", "--no-python-downloads", python],
        capture_output=True,
        text=True,
        check=False,
    )
    says = "import sys; print('%d.%d' % sys.version_info[:2])"
    for program in (found.stdout.strip(), shutil.which(f"python{python}")):
        if program:
            done = subprocess.run([program, "-c", says], capture_output=True, text=True, check=False)
            if done.returncode == 0 and done.stdout.strip() == python:
                return program
    return None


def _install(target: Path, architecture: str, python: str) -> None:
    command = [
        *("uv", "pip", "install", "--quiet", "--target", str(target)),
        *("--python-platform", ARCHITECTURES[architecture], "--python-version", python, "--only-binary", ":all:"),
        *("--no-compile-bytecode", "--exclude-newer", _tool_setting("exclude-newer"), *_requirements()),
    ]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the functions' packages cannot be installed:\n{done.stderr.strip()}")


def _requirements() -> list[str]:
    """The functions' group, and of the project's own dependencies those that the protocol needs."""
    wire = [item for item in _project()["dependencies"] if item.startswith(("msgspec", "pynacl"))]
    return [*wire, *_document()["dependency-groups"][GROUP]]


def _dependencies(packages: Path) -> Iterator[tuple[str, Path]]:
    for path in packages.rglob("*"):
        name = path.relative_to(packages).as_posix()
        if path.is_file() and not _is_left_out(name):
            yield name, path


def _is_left_out(name: str) -> bool:
    top = name.partition("/")[0]
    is_of_runtime = any(top == package or top.startswith(f"{package}-") for package in OF_THE_RUNTIME)
    return is_of_runtime or top in ("bin", ".lock") or top.endswith("-stubs") or name.endswith(_LEFT_OUT_SUFFIXES)


def _metadata(folder: Path) -> dict[str, Path]:
    """What tells the functions which version they are."""
    project = _project()
    path = folder / "METADATA"
    path.write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    return {f"{project['name']}-{project['version']}.dist-info/METADATA": path}


def _synthesized() -> str:
    from runvoy_infra.stack import app

    with tempfile.TemporaryDirectory() as folder:
        made = app.synthesize(Path(folder))
    if made.findings:
        raise SystemExit(
            "\n".join(f"{finding.rule} at {finding.resource}: {finding.message}" for finding in made.findings)
        )
    return app.as_text(made.template)


def _project() -> dict[str, Sequence[str] | str]:
    project: dict[str, Sequence[str] | str] = _document()["project"]
    return project


def _tool_setting(name: str) -> str:
    return str(_document()["tool"]["uv"][name])


def _document() -> dict[str, dict]:  # type: ignore[type-arg]
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text())


if __name__ == "__main__":
    sys.exit(main())
