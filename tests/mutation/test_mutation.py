"""The tool that plants small wrong changes: it makes them where it says, sees what the tests say, and hurts nobody."""

from __future__ import annotations

import ast
from pathlib import Path
from random import Random

import pytest
from tests.mutation.__main__ import EQUIVALENT, Copy, files_of, stages_of
from tests.mutation.mutants import ROOT, Mutant, all_mutants, apply, mutants_of

SAMPLE = 40
STATES = "protocol/runvoy_protocol/states.py"


pytestmark = pytest.mark.xdist_group("mutation")


@pytest.fixture(scope="module")
def mutants() -> list[Mutant]:
    """All of them. Not made on import: every worker imports this, and one of them has its tests."""
    return all_mutants()


def test_every_mutant_has_a_key_of_its_own(mutants: list[Mutant]) -> None:
    keys = [mutant.key for mutant in mutants]
    assert len(set(keys)) == len(keys) > 1000


def test_what_is_explained_as_equivalent_exists(mutants: list[Mutant]) -> None:
    assert EQUIVALENT.keys() <= {mutant.key for mutant in mutants}
    assert all(EQUIVALENT.values())


@pytest.mark.parametrize("number", range(SAMPLE))
def test_a_mutant_is_one_change_that_compiles(mutants: list[Mutant], number: int) -> None:
    mutant = Random(1).sample(mutants, SAMPLE)[number]
    source = (ROOT / mutant.path).read_text()
    changed = apply(mutant, source)
    compile(changed, mutant.path, "exec")
    before, after = ast.unparse(ast.parse(source)).splitlines(), changed.splitlines()
    assert before != after, mutant.key
    assert abs(len(before) - len(after)) <= 1, mutant.key


def test_texts_for_people_and_annotations_are_left_alone() -> None:
    source = '''
from typing import Literal
WORD: Literal["a"] = "b"
def f(x: Literal["c"] = "d") -> None:
    """A docstring."""
    raise RunvoyError(ErrorCode.E, f"text {x}", "a hint")
'''
    assert {mutant.before for mutant in mutants_of("x.py", source) if mutant.operator == "constant"} == {"'b'", "'d'"}


def test_every_file_has_tests_to_be_tried_with(mutants: list[Mutant]) -> None:
    for path in {mutant.path for mutant in mutants}:
        for stage in stages_of(path):
            assert files_of(stage, ROOT)
    with pytest.raises(LookupError):
        files_of(["tests/unit/test_of_nothing*.py"], ROOT)


def test_a_known_mutant_is_killed_and_the_code_as_it_is_survives(mutants: list[Mutant], tmp_path: Path) -> None:
    [mutant] = [
        mutant
        for mutant in mutants
        if mutant.path == STATES and mutant.operator == "return" and "can_follow" in mutant.place
    ]
    copy = Copy(tmp_path)
    assert copy.run(["tests/unit/test_protocol_states.py"]) == "survived"
    before = (ROOT / STATES).read_text()
    assert copy.try_out(mutant, STATES) == "killed"
    assert (ROOT / STATES).read_text() == (tmp_path / STATES).read_text() == before
