"""All mutants of the code that decides and of the wire: small wrong changes that some test must notice.

Why a mutator of our own: mutmut runs all mutants or none, and the packages here are found through an editable install,
before its copies; cosmic-ray changes the checkout in place, where somebody may be working. A sample under a seed, run in a
copy, is what a budget needs.

Not mutated: texts for people (messages, hints, docstrings), annotations without bounds, and imports.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
FOLDERS = ("protocol/runvoy_protocol", "agent/runvoy_agent/core")

_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt,),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt,),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
# Calls that make a text for people: what is in them is not mutated, but for the error's code, which stands first.
_TELLERS = frozenset({"RunvoyError", "_Problem", "ErrorSpec", "ValueError"})


class Mutant(NamedTuple):
    """One change. `key` names it by what it changes, not by line: it stays when other code moves."""

    path: str
    place: str
    operator: str
    before: str
    after: str
    line: int
    occurrence: int  # among equal changes in one place
    number: int  # of the node in the tree, and of the change at it
    change: int

    @property
    def key(self) -> str:
        return f"{self.path}:{self.place}: {self.operator}: {self.before} → {self.after} #{self.occurrence}"


def all_mutants() -> list[Mutant]:
    """Every mutant, in a fixed order."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.py"))]
    return [mutant for path in paths for mutant in mutants_of(path.relative_to(ROOT).as_posix(), path.read_text())]


def mutants_of(path: str, source: str) -> list[Mutant]:
    found: list[Mutant] = []
    seen: dict[str, int] = {}
    for number, (node, place) in enumerate(_nodes(ast.parse(source))):
        for change, (operator, replacement) in enumerate(_changes(node)):
            before, after = _shown(node), _shown(replacement)
            same = f"{place}{operator}{before}{after}"
            seen[same] = seen.get(same, 0) + 1
            line = getattr(node, "lineno", 0)
            found.append(Mutant(path, place, operator, before, after, line, seen[same], number, change))
    return found


def apply(mutant: Mutant, source: str) -> str:
    """The source with the change made; comments are lost."""
    tree = ast.parse(source)
    for number, (node, _) in enumerate(_nodes(tree)):
        if number == mutant.number:
            _, replacement = list(_changes(node))[mutant.change]
            return ast.unparse(ast.fix_missing_locations(_Replace(node, replacement).visit(tree)))
    raise ValueError(f"there is no {mutant.key} in this source")


class _Replace(ast.NodeTransformer):
    def __init__(self, node: ast.AST, replacement: ast.AST) -> None:
        self._node, self._replacement = node, replacement

    def visit(self, node: ast.AST) -> ast.AST:
        return self._replacement if node is self._node else super().visit(node)


def _nodes(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """The nodes that may be mutated with their place (`Class.function`), always in the same order."""
    yield from _below(tree, ())


def _below(node: ast.AST, place: tuple[str, ...]) -> Iterator[tuple[ast.AST, str]]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        place = (*place, node.name)
    yield node, ".".join(place) or "module"
    for child in _children(node):
        yield from _below(child, place)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.JoinedStr():
            return
        case ast.Expr(value=ast.Constant()):  # a docstring
            return
        case ast.FunctionDef(body=body, args=arguments):
            yield from (default for default in [*arguments.defaults, *arguments.kw_defaults] if default is not None)
            yield from body
        case ast.ClassDef(body=body):
            yield from body
        case ast.AnnAssign(annotation=annotation, value=value):
            if "Meta(" in ast.unparse(annotation):
                yield annotation
            if value is not None:
                yield value
        case ast.Call(func=ast.Name(id=name)) if name in _TELLERS:
            yield from (keyword.value for keyword in node.keywords)
            yield from (
                argument for argument in node.args if isinstance(argument, ast.BinOp | ast.BoolOp | ast.Compare)
            )
        case ast.Call(func=ast.Name(id="cast" | "TypeVar")):
            return
        case _:
            yield from ast.iter_child_nodes(node)


def _changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.Compare(ops=operators):
            for position, operator in enumerate(operators):
                for other in _COMPARISONS.get(type(operator), ()):
                    yield "comparison", _with(node, ops=[*operators[:position], other(), *operators[position + 1 :]])
        case ast.BoolOp(op=operator):
            yield "boolean", _with(node, op=ast.Or() if isinstance(operator, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "boolean", operand
        case ast.BinOp(op=arithmetic) if type(arithmetic) in _ARITHMETIC:
            yield "arithmetic", _with(node, op=_ARITHMETIC[type(arithmetic)]())
        case ast.Constant(value=value):
            yield from (("constant", ast.Constant(other)) for other in _constants(value))
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield "return", ast.Return(ast.Constant(None))
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            yield "condition negation", _with(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.comprehension(ifs=[first, *others]):
            yield "condition negation", _with(node, ifs=[ast.UnaryOp(ast.Not(), first), *others])
        case ast.Expr(value=ast.Call() | ast.Yield() | ast.YieldFrom()) | ast.Raise():
            yield "removal", ast.Pass()


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _constants(value: object) -> Iterator[bool | int | str | bytes]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value + 1
        yield value - 1
    elif isinstance(value, str) and " " not in value:
        yield value + "x"
    elif isinstance(value, bytes):
        yield value + b"x"


def _shown(node: ast.AST) -> str:
    match node:
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            text = f"if {ast.unparse(test)}"
        case _:
            text = ast.unparse(node)
    return text if len(text) <= 100 else text[:97] + "…"
