"""Mutants of the packages: which small errors there are, in which order, and where they stand.

The order depends on the seed and on the changed line alone, so that a change of one module does
not draw another sample of the others.
"""

import ast
import difflib
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

DRAWINGS: Final = ("data/synthetic/", "studies/plots.py")  # numbers that only shape a drawing
# `is` for `==` and the reverse differ where an interpreter does not share equal constants, not in
# what the code means
SAME_MEANING: Final = tuple(
    f"core/ReplaceComparisonOperator_{pair}"
    for pair in ("Is_Eq", "Eq_Is", "IsNot_NotEq", "NotEq_IsNot")
)

Position = tuple[int, int]  # line from 1, column from 0


@dataclass(frozen=True)
class Mutant:
    """One change at one place of one module.

    Attributes:
        module: Path below `signlang/`, POSIX.
        operator: Name of the operator of cosmic-ray.
        occurrence: Which of the places where it applies.
        line: Where the change stands, from 1.
        source: Digest of the module's text: results of another text are not reused.
        rank: Place in the order of the sample.
    """

    module: str
    operator: str
    occurrence: int
    line: int
    source: str
    rank: str

    @property
    def key(self) -> str:
        """Identifies the mutant in the results."""
        return f"{self.module} {self.operator} {self.occurrence} {self.source}"


def sample(package: Path, rooms: Sequence[str], seed: int) -> list[Mutant]:
    """One mutant at every place, in the order of the sample.

    Args:
        package: Folder `signlang/`.
        rooms: Folders of it, or single modules.
        seed: Another one gives another order, and other mutants at each place.
    """
    mutants = []
    for room in rooms:
        folder = package / room
        for module in sorted(folder.rglob("*.py")) if folder.is_dir() else [folder]:
            name = module.relative_to(package).as_posix()
            if not name.startswith(DRAWINGS):
                mutants += mutants_of(name, module.read_text("utf-8"), seed)
    return sorted(mutants, key=lambda mutant: mutant.rank)


def mutants_of(name: str, text: str, seed: int) -> list[Mutant]:
    """One mutant at every place of a module.

    Args:
        name: Path of the module below `signlang/`, POSIX.
        text: Of the module.
        seed: Of the sample.
    """
    from cosmic_ray.plugins import get_operator, operator_names

    source, lines, tree = _digest(text), text.splitlines(), _parse(text)
    passive = list(_passive_places(text))
    chosen: dict[Position, Mutant] = {}
    equal: Counter[tuple[str, str]] = Counter()  # the same line twice is two places
    for operator_name in sorted(operator_names()):
        operator = _instance(get_operator(operator_name))
        if operator is None or operator_name in SAME_MEANING:
            continue
        for occurrence, (start, end) in enumerate(_positions(operator, tree)):
            if any(first <= start and end <= last for first, last in passive):
                continue
            line = lines[start[0] - 1].strip()
            number = equal[operator_name, line]
            equal[operator_name, line] += 1
            rank = _digest(f"{seed} {name} {operator_name} {number} {line}")
            mutant = Mutant(name, operator_name, occurrence, start[0], source, rank)
            chosen[start] = min(chosen.get(start, mutant), mutant, key=lambda one: one.rank)
    return list(chosen.values())


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _parse(text: str) -> Any:
    from cosmic_ray.ast import get_ast

    return get_ast(text)


def _instance(operator: Any) -> Any:
    try:
        return operator()
    except TypeError:  # needs arguments: replaces a variable that one names
        return None


def _positions(operator: Any, tree: Any) -> list[tuple[Position, Position]]:
    from cosmic_ray.ast import Visitor

    found: list[tuple[Position, Position]] = []

    class Positions(Visitor):  # type: ignore[misc,unused-ignore]
        def visit(self, node: Any) -> Any:
            found.extend(operator.mutation_positions(node))
            return node

    Positions().walk(tree)
    return found


def _passive_places(text: str) -> Iterator[tuple[Position, Position]]:
    """Where types, arguments of decorators, and `strict=` of zip stand: they compute nothing."""
    for node in ast.walk(ast.parse(text)):
        nodes = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        if isinstance(node, ast.keyword) and node.arg == "strict":
            nodes.append(node)
        for decorator in getattr(node, "decorator_list", []):
            nodes += getattr(decorator, "args", []) + getattr(decorator, "keywords", [])
        for one in nodes:
            if isinstance(one, ast.expr | ast.keyword):
                assert one.end_lineno is not None
                assert one.end_col_offset is not None
                yield (one.lineno, one.col_offset), (one.end_lineno, one.end_col_offset)


def mutated_text(mutant: Mutant, text: str) -> str:
    """The text of the module with the change in it."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    changed: str | None = mutate_code(text, get_operator(mutant.operator)(), mutant.occurrence)
    assert changed is not None, mutant
    return changed


def difference(text: str, changed: str) -> str:
    """The change as a unified diff without context."""
    lines = difflib.unified_diff(text.splitlines(), changed.splitlines(), lineterm="", n=0)
    return "\n".join(line for line in lines if not line.startswith(("---", "+++")))


def lines_that_reach(text: str, line: int) -> set[int]:
    """Lines of functions whose execution depends on what stands in a line.

    Of a statement in a function, its own lines; of a function's head, its body; of anything else
    (constants, fields of a class), every line of every function.
    """
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    nodes = list(ast.walk(ast.parse(text)))  # outer nodes come before the inner ones
    around = [node for node in nodes if isinstance(node, ast.stmt) and line in _lines(node)]
    if not any(isinstance(node, functions) for node in around):
        return {n for node in nodes if isinstance(node, functions) for n in _body(node)}
    inner = around[-1]
    if isinstance(inner, functions):
        return set(_body(inner))
    body = getattr(inner, "body", None)
    end = body[0].lineno if body else _lines(inner).stop
    return {*range(inner.lineno, end), line}


def _lines(node: ast.stmt) -> range:
    assert node.end_lineno is not None
    first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
    return range(first, node.end_lineno + 1)


def _body(node: ast.FunctionDef | ast.AsyncFunctionDef) -> range:
    return range(node.body[0].lineno, _lines(node).stop)
