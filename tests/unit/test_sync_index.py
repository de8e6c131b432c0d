"""executions.jsonl: each execution once, whatever was cut off; links to find executions by."""

import json
import threading

import pytest
from tests.unit.sync_cases import ended

from runvoy_sync.copies import write_status
from runvoy_sync.index import Index, line_of
from runvoy_sync.tree import Tree


@pytest.fixture
def tree(tmp_path):
    made = Tree(tmp_path)
    yield made
    made.close()


def enter(index, *statuses):
    index.append({one.execution_id: line_of(one) for one in statuses})


def index_of(tree):
    made = Index(tree)
    made.recover()
    return made


def ids_in(tree):
    return [json.loads(line)["execution_id"] for line in (tree.root / "executions.jsonl").read_text().splitlines()]


def test_a_line_whose_result_was_cut_off_is_not_written_again(tree):
    first, second = ended(1), ended(2)
    enter(index_of(tree), first)
    again = index_of(tree)
    enter(again, second)
    enter(again, first)
    assert ids_in(tree) == [first.execution_id, second.execution_id]


@pytest.mark.parametrize("torn", ['{"execution_id": "0', "x" * 200_000, "\0" * 5])
def test_a_torn_line_goes(tree, torn):
    index = index_of(tree)
    enter(index, ended(1))
    with (tree.root / "executions.jsonl").open("a") as file:
        file.write(torn)
    enter(index_of(tree), ended(2))
    assert len(ids_in(tree)) == 2


def test_lines_that_somebody_else_wrote_stay(tree):
    (tree.root / "executions.jsonl").write_text('[]\nno json\n{"execution_id": 7}\n')
    enter(index_of(tree), ended(1))
    assert (tree.root / "executions.jsonl").read_text().startswith('[]\nno json\n{"execution_id": 7}\n{')


def test_many_threads_write_each_line_once(tree):
    index = index_of(tree)
    statuses = [ended(number) for number in range(200)]
    threads = [
        threading.Thread(target=lambda part: [enter(index, one) for one in part], args=(statuses[start::8],))
        for start in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ids_in(tree)) == sorted(one.execution_id for one in statuses)


def test_a_write_that_fails_is_told_to_all_and_leaves_no_part(tree):
    index = index_of(tree)
    enter(index, ended(1))
    (tree.root / "executions.jsonl").unlink()
    (tree.root / "executions.jsonl").mkdir()
    with pytest.raises(OSError, match="directory"):
        enter(index, ended(2))
    (tree.root / "executions.jsonl").rmdir()
    enter(index, ended(2))
    enter(index, ended(2))
    assert len(ids_in(tree)) == 1, "its line is there, and its result may have failed"
    index.forget([ended(2).execution_id])


def test_latest_is_the_one_admitted_last_whatever_comes_last(tree):
    for number in (2, 3, 1):
        write_status(tree, ended(number))
        index_of(tree).link(ended(number, team="data"))
    assert (tree.root / "latest").resolve().name == ended(3).execution_id
    assert len(list((tree.root / "by-label" / "team" / "data").iterdir())) == 3


def test_a_link_of_somebody_elses_is_replaced_and_not_followed(tree, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (tree.root / "latest").symlink_to(outside)
    index_of(tree).link(ended(1))
    assert (tree.root / "latest").readlink().name == ended(1).execution_id
    assert not list(outside.iterdir())
