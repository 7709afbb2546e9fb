"""Where the bundled models, pairs and recipes lie: beside the package in a clone of the
repository."""

from __future__ import annotations

from pathlib import Path

from diffdpo.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def bundled(name: str) -> str:
    """The path of a bundled file or folder, relative to the working directory where that is
    possible.

    Raises UserError where the package was installed without them.
    """
    path = ROOT / name
    if not path.exists():
        raise UserError(
            f"{name} comes with a clone of the repository, not with the installed package; name"
            " your own"
        )
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def is_bundled(path: str, name: str) -> bool:
    """Whether ``path`` is the bundled file or folder ``name``."""
    return Path(path).resolve() == ROOT / name
