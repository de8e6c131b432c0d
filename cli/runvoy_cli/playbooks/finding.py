"""Where playbooks are found: the project's `.runvoy` folders, then the user's own.

From the working directory up to the top of its git checkout, or up to the home folder, a playbook of a nearer folder wins. A
folder that is in neither is looked at alone: what others put into /tmp is nobody's project.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from runvoy_cli.home import config
from runvoy_cli.input import yaml_nodes
from runvoy_cli.input.problems import UsageProblem
from runvoy_cli.playbooks import compiling, reader
from runvoy_cli.playbooks.model import Playbook
from runvoy_protocol.members import PlaybookPin
from runvoy_protocol.playbooks import NAME

PROJECT_FOLDER = ".runvoy"
USER_FOLDER = "playbooks"
SUFFIXES = (".yml", ".yaml")

Origin = Literal["project", "user"]


class Found(NamedTuple):
    """A file that should be a playbook."""

    name: str
    path: Path
    origin: Origin

    def load(self) -> Playbook:
        """BadPlaybook, or UsageProblem if it cannot be read."""
        if not self.path.is_file():  # a pipe would be waited for
            raise UsageProblem(f"{self.path} is no regular file")
        twin = next((self.path.with_suffix(one) for one in SUFFIXES if one != self.path.suffix), self.path)
        if twin.exists():
            raise UsageProblem(
                f"the playbook {self.name} is there twice: {self.path} and {twin.name}", "Remove or rename one of them."
            )
        return reader.read(self.name, self.path, yaml_nodes.read_text(self.path))


def find_all() -> list[Found]:
    """Every playbook that a name stands for here, by name; they are not read yet."""
    found: dict[str, Found] = {}
    for folder, origin in _folders(_here(), config.home()):
        for path in _files(folder):
            found.setdefault(path.stem, Found(path.stem, path, origin))
    return [found[name] for name in sorted(found)]


def places() -> list[Path]:
    """The folders that a playbook's name is looked up in here, whether they are there or not."""
    return [folder for folder, _ in _folders(_here(), config.home())]


def _here() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        problem = "the folder that this was called in is not there any more, so there are no playbooks to look for"
        raise UsageProblem(problem, "Change to another folder (`cd`), then call it again.") from error


def find(name: str) -> Found:
    """UsageProblem, with the nearest one, if there is no such playbook."""
    known = {one.name: one for one in find_all()}
    if name not in known:
        names = ", ".join(known) or "none"
        raise UsageProblem(
            f"there is no playbook {name[:100]!r}",
            f"{yaml_nodes.did_you_mean(name, known)}Found here: {names}. Playbooks are {PROJECT_FOLDER}/NAME.yml in the "
            f"project, or {config.home() / USER_FOLDER}/NAME.yml.",
        )
    return known[name]


def load(name: str) -> Playbook:
    """The playbook of this name; UsageProblem if there is none, BadPlaybook if it is not right."""
    return find(name).load()


def pin_of(name: str) -> PlaybookPin:
    """What limits a key to the playbook of this name as it is now: `keys create --only-playbook NAME`."""
    return compiling.pin(load(name))


def _folders(working: Path, user_home: Path) -> Iterator[tuple[Path, Origin]]:
    for folder in _project(working):
        candidate = folder / PROJECT_FOLDER
        if candidate != user_home and not _is_same(candidate, user_home):  # ~/.runvoy is the client's own
            yield candidate, "project"
    yield user_home / USER_FOLDER, "user"


def _project(working: Path) -> list[Path]:
    """The working directory and its parents, as far as they are the project."""
    try:
        home: Path | None = Path.home()
    except RuntimeError:
        home = None
    folders: list[Path] = []
    for folder in (working, *working.parents):
        folders.append(folder)
        if (folder / ".git").exists() or folder == home:
            return folders
    return [working]


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and NAME.match(path.stem))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UsageProblem(f"{folder} cannot be read: {error.strerror}") from error


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
