"""The folder daemon's files: what is written behind a verified prefix, what no link leads out of, what names become."""

import errno
import os
import signal
import subprocess
import sys
import tracemalloc

import pytest

from runvoy_protocol.errors import RunvoyError
from runvoy_sync import names
from runvoy_sync.copies import Disturbed, GrowingFile
from runvoy_sync.ended import _Gathered
from runvoy_sync.tree import Tree, begin_writing


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "kept").mkdir()
    made = Tree(tmp_path / "kept")
    yield made
    made.close()


def grown(tree, *pieces):
    file = GrowingFile(tree, "log.txt")
    for piece in pieces:
        file.add(piece)
        file.flush()
    file.finish()
    return (tree.root / "log.txt").read_bytes()


WHOLE = b"one\ntwo\nthree\n"


@pytest.mark.parametrize(
    "there", [b"", b"o", b"one\n", b"one\ntw", WHOLE, WHOLE + b"more", b"other\n", b"one\nTWO\nthree\nfour"]
)
@pytest.mark.parametrize("cut", [1, 4, 6, 14])
def test_whatever_was_there_the_file_ends_right(tree, there, cut):
    (tree.root / "log.txt").write_bytes(there)
    assert grown(tree, WHOLE[:cut], WHOLE[cut:]) == WHOLE


def test_what_is_there_already_is_not_written_again(tree):
    (tree.root / "log.txt").write_bytes(WHOLE)
    before = (tree.root / "log.txt").stat().st_mtime_ns
    assert grown(tree, WHOLE) == WHOLE
    assert (tree.root / "log.txt").stat().st_mtime_ns == before


def test_a_file_that_somebody_else_changes_is_noticed(tree):
    file = GrowingFile(tree, "log.txt")
    file.add(b"one\n")
    file.flush()
    (tree.root / "log.txt").write_bytes(b"")
    file.add(b"two\n")
    with pytest.raises(Disturbed):
        file.flush()


def test_a_write_that_finds_no_room_leaves_whole_lines(tmp_path):
    (tmp_path / "kept").mkdir()
    program = f"""
import resource, signal
from pathlib import Path
from runvoy_sync.copies import GrowingFile
from runvoy_sync.tree import Tree, begin_writing
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
file = GrowingFile(Tree(Path({str(tmp_path / "kept")!r})), "log.txt")
file.add(b"0123456789" * 10 + b"\\n")
file.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (150, 150))
file.add(b"9876543210" * 10 + b"\\n")
try:
    file.flush()
except OSError as error:
    print(error.errno)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{errno.EFBIG}\n"
    assert (tmp_path / "kept" / "log.txt").read_bytes() == b"0123456789" * 10 + b"\n"


def test_a_link_in_a_files_place_goes_and_what_it_leads_to_stays(tree, tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("mine")
    for name in ("status.json", ".status.json.tmp", "log.txt"):
        (tree.root / name).symlink_to(outside)
    tree.write("status.json", content=b"{}")
    grown(tree, WHOLE)
    assert outside.read_text() == "mine"
    assert (tree.root / "status.json").read_bytes() == b"{}"
    assert not (tree.root / "log.txt").is_symlink()
    assert tree.read("nothing") is None


def test_a_linked_folder_is_not_entered(tree, tmp_path):
    (tmp_path / "outside").mkdir()
    (tree.root / "executions").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match="not followed"):
        tree.write("executions", "status.json", content=b"")
    with pytest.raises(OSError, match="not followed"):
        list(tree.names("executions"))
    assert not list((tmp_path / "outside").iterdir())


def test_advice_that_is_not_taken_is_no_error():
    """The file that it was about would be emptied, and copied the slow way."""
    reading, writing = os.pipe()
    try:
        begin_writing(writing)
    finally:
        os.close(reading)
        os.close(writing)


def test_short_pieces_take_little_memory_until_they_are_written(tree):
    """A command that prints a line at a time has a record for each of them."""
    with tree.fresh("log.txt") as descriptor:
        gathered = _Gathered(descriptor)
        tracemalloc.start()
        try:
            for _ in range(300_000):
                gathered.add(b"\n")
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        gathered.finish()
    assert most < 2 * 1024 * 1024
    assert (tree.root / "log.txt").read_bytes() == b"\n" * 300_000


def test_two_trees_cannot_both_be_locked(tree):
    tree.lock()
    other = Tree(tree.root)
    with pytest.raises(RunvoyError, match=f"process {os.getpid()}"):
        other.lock()
    other.close()


def test_a_file_that_is_open_for_writing_is_known(tree):
    signal.signal(signal.SIGIO, lambda *_: None)
    path = tree.root / "a.yml"
    with path.open("w"):
        assert tree.is_being_written("a.yml") == (sys.platform == "linux")
    assert not tree.is_being_written("a.yml")


def test_names_are_plain_and_never_the_same_for_two_texts():
    texts = ["", ".", "..", "../up", "a/b", "a%2Fb", "é", "\n", "\x1b[m", "a" * 256, "a" * 255 + "b", "%", " ", "~"]
    made = [names.of_text(text) for text in texts]
    assert len(set(made)) == len(texts)
    for name in made:
        assert name.isprintable()
        assert name.isascii()
        assert "/" not in name
        assert not name.startswith(".")
        assert len(name) < 150
    assert names.of_text(os.fsdecode(b"\xff")) == "%FF"
    assert names.kept("a.b.yml", "0") == "a.b.0.yml"
    assert len(names.kept("x" * 251 + ".yml", "0" * 32)) < 200


@pytest.mark.parametrize(
    ("name", "is_one"), [("a.yml", True), ("a.yaml", True), ("a.json", True), (".a.yml", False), ("a.yml~", False)]
)
def test_which_files_are_requests(name, is_one):
    assert names.is_request(name) == is_one


@pytest.mark.parametrize(
    "name", [".a.yml.swp", "a.yml~", "#a.yml#", ".#a.yml", "a.yml.bak", "a.yml.part", ".a.yml.Xy3"]
)
def test_what_an_editor_keeps_beside_a_file_is_nobodys_request(name):
    assert names.is_hidden(name)
    assert not names.is_request(name)


@pytest.mark.parametrize("name", ["a.YML", "a.txt", "noext", "a.yml.txt"])
def test_what_may_be_a_request_by_a_wrong_name_is_not_hidden(name):
    assert not names.is_hidden(name)
