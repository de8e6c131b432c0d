"""The last step of copies: whole on disk, then in the index, then their results; whatever fails, nothing is said that is not so."""

import errno
import json
import os
import sys

import pytest

from runvoy_sync.finishing import MOST_AT_ONCE, Finished, Finishing
from runvoy_sync.index import NAME, Index
from runvoy_sync.tree import Tree

IDS = [f"{number:012x}7{'0' * 3}8{'0' * 15}" for number in range(1, 300)]


@pytest.fixture
def tree(tmp_path):
    made = Tree(tmp_path)
    yield made
    made.close()


class Watching(Tree):
    """A tree that remembers in which order things were made durable and named."""

    def __init__(self, root, *, has_syncfs=True):
        super().__init__(root)
        self.steps = []
        self.has_syncfs = has_syncfs

    def sync_file_system(self, *path):
        if not self.has_syncfs:
            return False
        self.steps.append("sync all")
        return super().sync_file_system(*path)

    def sync_files(self, *path):
        self.steps.append(f"sync {path[-1]}")
        super().sync_files(*path)

    def publish(self, *path):
        assert path[1] in (self.root / NAME).read_text(), "its line comes first"
        self.steps.append(f"publish {path[1]}")
        super().publish(*path)

    def sync_names(self, *path):
        self.steps.append(f"sync names {path[-1]}")
        super().sync_names(*path)


def copied(tree, execution_id, told):
    tree.write("executions", execution_id, "log.txt", content=b"one\n", is_durable=False)
    tree.stage("executions", execution_id, "result.json", content=b"{}")
    line = json.dumps({"execution_id": execution_id}).encode() + b"\n"
    return Finished(execution_id, line, lambda error: told.append((execution_id, error)))


def finishing(tree):
    index = Index(tree)
    index.recover()
    return Finishing(tree, index, lambda: 0)


def finished(one, batch):
    return {done.execution_id: error for done, error in one.finish(batch)}


def lines(tree):
    return [json.loads(line)["execution_id"] for line in (tree.root / NAME).read_text().splitlines()]


@pytest.mark.parametrize("count", [1, 4, 5, 40])
@pytest.mark.parametrize("has_syncfs", [True, False])
def test_the_order_is_files_then_lines_then_results(tmp_path, count, has_syncfs):
    tree = Watching(tmp_path, has_syncfs=has_syncfs)
    one = finishing(tree)
    assert set(finished(one, [copied(tree, i, []) for i in IDS[:count]]).values()) == {None}
    assert lines(tree) == IDS[:count]
    published = [f"publish {i}" for i in IDS[:count]]
    if count > 4 and has_syncfs and sys.platform == "linux":
        assert tree.steps == ["sync all", *published, "sync all"]
    elif not has_syncfs or count <= 4:
        assert tree.steps == [
            *(f"sync {i}" for i in IDS[:count]),
            *published,
            *(f"sync names {i}" for i in IDS[:count]),
        ]
    assert all((tree.root / "executions" / i / "result.json").exists() for i in IDS[:count])
    tree.close()


@pytest.mark.parametrize("count", [2, 30])
def test_what_is_wrong_with_one_does_not_keep_the_others(tree, count):
    batch = [copied(tree, i, []) for i in IDS[:count]]
    (tree.root / "executions" / IDS[0] / "result.json").mkdir()
    one = finishing(tree)
    errors = finished(one, batch)
    assert isinstance(errors.pop(IDS[0]), OSError)
    assert set(errors.values()) == {None}
    (tree.root / "executions" / IDS[0] / "result.json").rmdir()
    assert finished(one, [copied(tree, IDS[0], [])]) == {IDS[0]: None}
    assert lines(tree) == IDS[:count], "its line was there"


def test_without_an_index_there_are_no_results(tree):
    one = finishing(tree)
    (tree.root / NAME).unlink()
    (tree.root / NAME).mkdir()
    batch = [copied(tree, i, []) for i in IDS[:9]]
    assert {error.errno for error in finished(one, batch).values()} == {errno.EISDIR}
    assert not list(tree.root.glob("executions/*/result.json"))
    (tree.root / NAME).rmdir()
    assert set(finished(one, [copied(tree, i, []) for i in IDS[:9]]).values()) == {None}
    assert lines(tree) == IDS[:9]


def test_a_line_whose_result_a_crash_cut_off_is_not_written_again(tree):
    index = Index(tree)
    index.recover()
    index.append({i: copied(tree, i, []).line for i in IDS[:30]})  # and here it was killed
    assert set(finished(finishing(tree), [copied(tree, i, []) for i in IDS[:40]]).values()) == {None}
    assert lines(tree) == IDS[:40]


def test_all_that_are_handed_over_are_finished_and_told(tree):
    told = []
    one = finishing(tree)
    for i in IDS:
        one.add(copied(tree, i, told))
    batches = []
    one.finish = lambda batch, finish=one.finish: batches.append(len(batch)) or finish(batch)
    one.start()
    while len(told) < len(IDS):
        os.sched_yield()
    one.stop()
    one.join()
    assert [error for _, error in told] == [None] * len(IDS)
    assert lines(tree) == IDS
    assert max(batches) == MOST_AT_ONCE
