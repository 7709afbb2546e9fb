"""Losses, rewards and formats from the user's files: ``file.py:name`` in place of a row's name."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from diffdpo.errors import UserError, short
from diffdpo.flags import one_of

Row = TypeVar("Row")


def is_own(name: str) -> bool:
    """Whether a name is of the form ``file.py:name``."""
    return ".py:" in name


def named_row(name: str, table: dict[str, Row], flag: str, as_row: Callable[[Any], Row]) -> Row:
    """The row called ``name`` in ``table``; a ``file.py:name`` is loaded and added to it first.

    ``as_row`` turns the object in the file into a row, or raises TypeError with the reason.

    Raises UserError where there is no such row, file or object, or the file fails.
    """
    if name not in table:
        if not is_own(name):
            names = [row for row in table if not is_own(row)]
            raise UserError(*one_of(flag, name, names))
        try:
            table[name] = as_row(load_object(name, flag))
        except TypeError as error:
            raise UserError(f"--{flag} {name}: {error}") from error
    return table[name]


def load_object(name: str, flag: str) -> Any:
    """The object that ``file.py:name`` names. Raises UserError where there is none."""
    path, _, attribute = name.rpartition(":")
    module = load_file(Path(path), flag)
    if not hasattr(module, attribute):
        raise UserError(f"--{flag} {name}: {path} defines no {attribute}")
    return getattr(module, attribute)


def load_file(path: Path, flag: str) -> Any:
    """The module in a file, loaded once a process. Raises UserError where it cannot be run."""
    if not path.is_file():
        raise UserError(f"--{flag} {path}: no such file")
    # From the whole path: two files of the same name must not share a module.
    module_name = f"diffdpo_own_{path.resolve().as_posix().replace('/', '_').replace('.', '_')}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None, "a file ending in .py has a loader"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # before it runs, so that its dataclasses find it
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's own code raises
        del sys.modules[module_name]  # so that a second try runs the mended file
        reason = short(error, 200)
        raise UserError(f"--{flag} {path}: {type(error).__name__}: {reason}") from error
    return module
