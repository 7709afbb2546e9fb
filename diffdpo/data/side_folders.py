"""Pairs in two folders: ``chosen/x.png`` and ``rejected/x.png``, with the prompt in ``x.txt``."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset

from diffdpo.data.splits import DEFAULT, has_rows
from diffdpo.engine.console import say
from diffdpo.errors import UserError, short

SIDES = (("chosen", "rejected"), ("w", "l"))
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jfif")
BESIDE = (".txt", ".jsonl", ".json", ".csv", ".md", "")  # of what may lie among them
TOLERATED = 0.05  # share of pictures without a partner; at least one may be


def pictures_in(folder: Path) -> list[Path]:
    """The picture files at and below a folder, sorted by name; hidden ones are none of them.

    Says which other files are passed over, but for those that describe pictures.
    """
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    known = (*PICTURES, *BESIDE)
    if others := [path.name for path in files if path.suffix.lower() not in known]:
        say(f"note         {folder}: {len(others):,} files are no pictures ({short(others[0])})")
    return [path for path in files if path.suffix.lower() in PICTURES]


def caption_beside(file: Path) -> str:
    """The caption in the .txt file of a picture's name, '' where there is none. Raises UserError
    where it cannot be read."""
    path = file.with_suffix(".txt")
    try:
        return path.read_text("utf-8-sig").strip() if path.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"caption {path}: cannot be read as UTF-8 ({short(error)})") from error


def sides_of(folder: Path) -> tuple[Path, Path] | None:
    """The folders of the preferred pictures and of the others; None where there are no two."""
    found = [(folder / first, folder / second) for first, second in SIDES]
    return next((both for both in found if all(side.is_dir() for side in both)), None)


def two_folders(folder: Path) -> dict[str, Path]:
    """The folders with two sides by the splits that they are: ``folder`` itself is train, one in it
    bears the name of its split. None where files hold rows."""
    found = {} if sides_of(folder) is None else {DEFAULT: folder}
    inner = [child for child in sorted(folder.iterdir()) if child.is_dir() and sides_of(child)]
    found = found or {child.name: child for child in inner}
    return {} if found and has_rows(folder) else found


def side_pairs(folder: Path) -> Dataset:
    """The pairs in the two folders in ``folder``, as names of files relative to it, and their
    prompts: a pair's is beside its preferred picture, or else beside the other one.

    Raises UserError where more than a few pictures have no partner of the same name.
    """
    both = sides_of(folder)
    assert both is not None, "two_folders has found it"
    first, second = (by_name(side) for side in both)
    if not first:
        raise UserError(f"data set {folder}: no {', '.join(PICTURES)} files in {both[0].name}")
    alone = sorted(set(first) ^ set(second))
    if len(alone) > max(1, TOLERATED * len({*first, *second})) or not set(first) & set(second):
        raise UserError(
            f"data set {folder}: {len(alone):,} pictures have no partner of the same name in the"
            f" other folder (first {short(alone[0])})"
        )
    if alone:
        say(f"note         data set {folder}: {short(', '.join(alone))}: no partner; left out")
    shared = [name for name in first if name in second]
    return Dataset.from_dict(
        {
            "chosen_file_name": [str(first[name].relative_to(folder)) for name in shared],
            "rejected_file_name": [str(second[name].relative_to(folder)) for name in shared],
            "prompt": [
                caption_beside(first[name]) or caption_beside(second[name]) for name in shared
            ],
        }
    )


def by_name(side: Path) -> dict[str, Path]:
    """The pictures of one folder by their names without the ending. Raises UserError where two
    have one name."""
    found: dict[str, Path] = {}
    for file in pictures_in(side):
        name = str(file.relative_to(side).with_suffix(""))
        if name in found:
            raise UserError(
                f"data set {side}: {short(found[name].name)} and {short(file.name)}: one name"
            )
        found[name] = file
    return found
