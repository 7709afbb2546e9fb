"""Kept pictures in the folders that other evaluations read."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from diffdpo.data.prompts import read_rows
from diffdpo.engine.files import atomic_folder
from diffdpo.image.sampling.samples import Album, Planned

QUALITY = 95  # of JPEG


def geneval(folder: Path, album: Album, pictures: Sequence[Planned], source: str) -> None:
    """``00000/metadata.jsonl`` and ``00000/samples/0000.png``, as GenEval's generators leave them
    (Ghosh et al. 2023); the metadata are the prompt's own row, where its file has any."""
    rows = read_rows(source)
    for picture in pictures:
        place = folder / f"{picture.prompt_index:05}"
        (place / "samples").mkdir(parents=True, exist_ok=True)
        row = rows.get(picture.prompt, {"prompt": picture.prompt})
        (place / "metadata.jsonl").write_text(json.dumps(row))
        shutil.copyfile(album.path(picture), place / "samples" / f"{picture.number:04}.png")


def hpsv2(folder: Path, album: Album, pictures: Sequence[Planned], source: str) -> None:
    """``style/00000.jpg``, one picture a prompt, as HPSv2's benchmark reads them (Wu et al. 2023);
    the style is the name of the prompts' file."""
    style = folder / (re.sub(r"[^\w-]+", "-", Path(source).stem) or "prompts")
    style.mkdir(parents=True)
    for picture in pictures:
        if picture.number == 0:
            with Image.open(album.path(picture)) as opened:
                opened.convert("RGB").save(
                    style / f"{picture.prompt_index:05}.jpg", quality=QUALITY
                )


Layout = Callable[[Path, Album, Sequence[Planned], str], None]
LAYOUTS: Mapping[str, Layout] = {"geneval": geneval, "hpsv2": hpsv2}


def export(
    names: Sequence[str], root: Path, albums: Sequence[Album], pictures: Sequence[Planned],
    source: Any,
) -> list[str]:  # fmt: skip
    """Write the pictures of each album under ``root``/export/LAYOUT/LABEL; returns a line for each
    layout."""
    for name in names:
        for album in albums:
            place = root / "export" / name / album.label
            place.parent.mkdir(parents=True, exist_ok=True)
            with atomic_folder(place) as draft:
                LAYOUTS[name](draft, album, pictures, str(source))
    return [f"export       {name}: {root / 'export' / name}" for name in names]
