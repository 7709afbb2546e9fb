"""Finds the bundled models, pairs and recipes: beside the package in a clone of the repository,
inside it where it was installed from a wheel."""

from __future__ import annotations

from pathlib import Path

from diffdpo.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
ROOTS = (PACKAGE.parent, PACKAGE / "_bundled")


def bundled(name: str) -> str:
    """The path of a bundled file or folder, relative to the working directory if it lies below it.

    Raises UserError where the package was installed without them.
    """
    for root in ROOTS:
        path = root / name
        if path.exists():
            # Relative, so that the path that a run records holds in another clone as well.
            return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    raise UserError(f"{name} is not in this installation of diffdpo; name your own")


def is_bundled(path: str, name: str) -> bool:
    """Whether ``path`` is the bundled file or folder ``name``."""
    return any(Path(path).resolve() == root / name for root in ROOTS)
