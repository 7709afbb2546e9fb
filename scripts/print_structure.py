"""Prints the rooms of the package, floor by floor, which room imports which, and the rooms inside.

    python scripts/print_structure.py            # prints the picture
    python scripts/print_structure.py --update   # writes it into docs/design.md

Both are read from the source; the floors are those of ``tests/test_imports.py``.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "diffdpo"
PAGE = ROOT / "docs" / "design.md"
BLOCK = re.compile(r"(?<=```text structure\n).*?(?=```)", re.DOTALL)


def floors() -> list[set[str]]:
    """The floors from the ground up, as the test of the imports states them."""
    for node in ast.parse((ROOT / "tests" / "test_imports.py").read_text()).body:
        names = [getattr(name, "id", "") for name in getattr(node, "targets", [])]
        if isinstance(node, ast.Assign) and names == ["FLOORS"]:
            return ast.literal_eval(node.value)
    raise SystemExit("tests/test_imports.py: assigns no FLOORS")


def room(path: Path) -> str:
    """The folder or module at the top of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(node: ast.AST) -> list[str]:
    """The rooms that one import statement names."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module == "diffdpo":
        names = [f"diffdpo.{alias.name}" for alias in node.names]
    else:
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    return [name.split(".")[1] for name in names if name.startswith("diffdpo.")]


def imports() -> dict[str, set[str]]:
    """For every room the other rooms that it imports; the package's own __init__ is no room."""
    rooms: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        # Imports inside functions count as well: a lazy import has a direction too.
        if path != PACKAGE / "__init__.py":
            nodes = ast.walk(ast.parse(path.read_text()))
            names = {name for node in nodes for name in imported(node)}
            rooms.setdefault(room(path), set()).update(names - {room(path)})
    return rooms


def picture() -> str:
    """One line a room, the top floor first."""
    rooms = imports()
    width = max(map(len, rooms))
    lines = [f"floor  {'room':<{width}}  imports"]
    for number, names in reversed(list(enumerate(floors()))):
        for name in sorted(names & set(rooms)):
            below = " ".join(sorted(rooms[name])) or "-"
            lines.append(f"{number:>5}  {name:<{width}}  {below}")
    return "\n".join([*lines, "", *inner_rooms()]) + "\n"


def inner_rooms() -> list[str]:
    """One line a room inside another: the first paragraph of its docstring."""
    places = sorted(path.parent for path in PACKAGE.glob("*/*/__init__.py"))
    names = [place.relative_to(PACKAGE).as_posix() for place in places]
    width = max(map(len, names))
    return [f"{name:<{width}}  {about(place)}" for name, place in zip(names, places, strict=True)]


def about(place: Path) -> str:
    """What a room says of itself."""
    said = ast.get_docstring(ast.parse((place / "__init__.py").read_text())) or ""
    return " ".join(said.partition("\n\n")[0].split())


if __name__ == "__main__":
    if sys.argv[1:] == ["--update"]:
        PAGE.write_text(BLOCK.sub(lambda match: picture(), PAGE.read_text()))
    else:
        print(picture(), end="")
