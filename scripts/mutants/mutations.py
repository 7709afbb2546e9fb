"""Makes single-point changes of a module's source, found in its syntax tree: a term left out, an
operator swapped, a constant moved, a clamp removed, arguments or branches exchanged, a statement
dropped."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

OPERATORS: dict[type, list[type]] = {
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div],
    ast.Div: [ast.Mult],
    ast.FloorDiv: [ast.Mult],
    ast.Mod: [ast.FloorDiv],
    ast.Pow: [ast.Mult],
    ast.BitOr: [ast.BitAnd],
    ast.BitAnd: [ast.BitOr],
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
    ast.And: [ast.Or],
    ast.Or: [ast.And],
}
# Calls whose result has the type of what they are called on, so that they can be left out.
REMOVABLE = set(
    "abs clamp clamp_ clip contiguous detach double exp expm1 float log log1p logsigmoid max mean"
    " min neg relu round sigmoid softplus sorted sqrt square squeeze sum tanh".split()
)
MODULES = {"F", "torch", "np", "math"}  # a call on one of these is a function's, not a method's
CONDITIONS = (ast.Compare, ast.BoolOp, ast.UnaryOp)  # have changes of their own
Code = ast.expr | ast.stmt
# Fields that are not changed: type hints, whose change no test could see, and decorators.
SKIPPED = {"annotation", "returns", "decorator_list"}


@dataclass(frozen=True)
class Mutant:
    """The source of a module with one change in it."""

    path: str
    line: int
    before: str  # the code that was changed
    after: str
    source: str  # of the whole module, changed

    @property
    def location(self) -> str:
        """File and line, as file:line."""
        return f"{self.path}:{self.line}"

    @property
    def change(self) -> dict[str, str]:
        """The code before and after."""
        return {"before": self.before, "after": self.after}

    def __str__(self) -> str:
        return f"{self.location}  {self.before}  →  {self.after}"


def mutants_of(root: Path, path: str) -> list[Mutant]:
    """All mutants of a file, in the order of its code."""
    source = (root / path).read_text()
    mutants = []
    for node in nodes(ast.parse(source)):
        for target, replacement in changes(node):
            before, after = (" ".join(ast.unparse(tree).split()) for tree in (target, replacement))
            if before == after:  # such as the exchange of two equal arguments
                continue
            changed = replaced(source, target, after)
            mutants.append(Mutant(path, target.lineno, before, after, changed))
    return mutants


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a tree that are worth changing."""
    for name, value in ast.iter_fields(tree):
        if name in SKIPPED:
            continue
        for child in value if isinstance(value, list) else [value]:
            # Messages are left alone: a piece of an f-string has no position of its own to edit at.
            if isinstance(child, ast.AST) and not isinstance(child, (ast.JoinedStr, ast.Slice)):
                yield child
                yield from nodes(child)


def replaced(source: str, node: Code, after: str) -> str:
    """The source with other code instead of a node."""
    # The text is edited, not unparsed, so that comments and line numbers stay. The columns of a
    # syntax tree count bytes of UTF-8.
    whole = source.encode()
    starts = [0, *(index + 1 for index, byte in enumerate(whole) if byte == ord("\n"))]
    first = starts[node.lineno - 1] + node.col_offset
    last = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
    # In parentheses, or the operators round it could bind to a piece of the new code.
    is_value = isinstance(node, ast.expr) and not isinstance(getattr(node, "ctx", None), ast.Store)
    code = f"({after})" if is_value else after
    return (whole[:first] + code.encode() + whole[last:]).decode()


def changes(node: ast.AST) -> Iterator[tuple[Code, ast.AST]]:
    """Pairs of a piece of code, at or inside a node, and what to put in its place."""
    if isinstance(node, (ast.If, ast.While, ast.IfExp)) and not isinstance(node.test, CONDITIONS):
        yield node.test, ast.UnaryOp(ast.Not(), node.test)
    if isinstance(node, ast.expr):
        for replacement in expression_variants(node):
            yield node, replacement
    elif isinstance(node, ast.stmt) and has_effect(node):
        yield node, ast.Pass()


def has_effect(node: ast.stmt) -> bool:
    """Whether a statement is worth dropping: a call, an error, or a change of an existing value."""
    if isinstance(node, ast.Assign):
        return isinstance(node.targets[0], (ast.Attribute, ast.Subscript))
    is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    return is_call or isinstance(node, (ast.Raise, ast.AugAssign))


def expression_variants(node: ast.expr) -> Iterator[ast.AST]:
    """The expressions to put in the place of one."""
    yield from operator_variants(node)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield node.operand
    elif isinstance(node, ast.Constant):
        yield from constant_variants(node)
    elif isinstance(node, ast.IfExp):
        yield with_fields(node, body=node.orelse, orelse=node.body)
    elif isinstance(node, ast.Tuple) and len(node.elts) == 2:
        if not any(isinstance(element, ast.Slice) for element in node.elts):
            yield with_fields(node, elts=node.elts[::-1])
    elif isinstance(node, ast.Call):
        yield from call_variants(node)


def operator_variants(node: ast.AST) -> Iterator[ast.AST]:
    """Another operator, or the left operand alone; a condition negated."""
    if isinstance(node, ast.BinOp):
        yield node.left
    if isinstance(node, (ast.BinOp, ast.BoolOp)):
        for kind in OPERATORS.get(type(node.op), []):
            yield with_fields(node, op=kind())
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for kind in OPERATORS[type(node.ops[0])]:
            yield with_fields(node, ops=[kind()])


def constant_variants(node: ast.Constant) -> Iterator[ast.AST]:
    """The other truth value, or the next number."""
    if isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node.value, (int, float)):
        yield ast.Constant(node.value + 1)


def call_variants(node: ast.Call) -> Iterator[ast.AST]:
    """Without the call, or with its first two arguments exchanged."""
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    module = isinstance(function, ast.Attribute) and getattr(function.value, "id", "") in MODULES
    if name in REMOVABLE and (module or isinstance(function, ast.Name)) and node.args:
        yield node.args[0]
    elif name in REMOVABLE and isinstance(function, ast.Attribute) and not module:
        yield function.value
    if len(node.args) >= 2 and not any(isinstance(arg, ast.Starred) for arg in node.args[:2]):
        yield with_fields(node, args=[node.args[1], node.args[0], *node.args[2:]])


def with_fields(node: ast.AST, **fields: object) -> ast.AST:
    """A copy of a node with other fields."""
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed
