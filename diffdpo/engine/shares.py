"""A checkpoint's tensors in shares: a folder of safetensors, to which each process wrote one file.

The files have the layout of ``torch.distributed.checkpoint``'s HuggingFaceStorageWriter, so that
its reader reads them as well: the place of every piece stands in the header, and nothing is
pickled, as its other format's table of contents is. They are written here without it, because it
has all processes exchange what they write, which a thread beside training cannot take part in.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffdpo.engine.digests import file_digest
from diffdpo.engine.files import sync, write_atomically
from diffdpo.engine.sharding import from_rows, rows_of
from diffdpo.errors import UserError, short

PLACES, OFFSETS = "DCP_SHARDING_INFO", "saved_offsets"  # in a header, as PyTorch's writer has them
POLL_SECONDS, SEEN_SECONDS, SILENT_SECONDS = 0.2, 60, 600


@dataclass(frozen=True)
class Share:
    """The number of a process among ``size``, and the draft folder that all of them write into."""

    draft: Path
    number: int
    size: int

    @property
    def name(self) -> str:
        """The name of this process's files, as PyTorch's writer would name them."""
        return f"shard-{self.number + 1:05}-model-00001-of-00001.safetensors"

    def is_seen(self) -> bool:
        """Whether this process sees the draft folder, which a network's file system may show
        late."""
        end = time.monotonic() + SEEN_SECONDS
        while not self.draft.is_dir() and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
        return self.draft.is_dir()

    def word(self, number: int) -> Path:
        """The file in which process ``number`` says that it is done."""
        return self.draft / f"done-{number}.json"


def write_share(
    share: Share, parts: Mapping[str, Mapping[str, Tensor]], first: Mapping[str, int]
) -> None:
    """Write this process's pieces of each part of a checkpoint, and say so; ``first`` has the row
    at which a piece begins in its tensor.

    Raises OSError or SafetensorError where the disk does not take them, which is said as well.
    """
    try:
        digests = {}
        for part, pieces in parts.items():
            (share.draft / part).mkdir(exist_ok=True)
            file = share.draft / part / share.name
            places = {
                k: {OFFSETS: [first[k]] * bool(v.dim()) + [0] * (v.dim() - 1)}
                for k, v in pieces.items()
            }
            save_file(dict(pieces), file, {"format": "pt", PLACES: json.dumps(places)})
            sync(file)
            digests[f"{part}/{share.name}"] = file_digest(file)
    except (OSError, SafetensorError) as error:
        write_atomically(share.word(share.number), json.dumps({"error": short(error)}))
        raise
    write_atomically(share.word(share.number), json.dumps({"files": digests}))


def gather_words(share: Share) -> dict[str, str]:
    """The digests of all files of all processes, once these have written them.

    Raises OSError where one of them could not, or has gone.
    """
    # By looking at the disk: a collective would run into those of the training beside it.
    digests: dict[str, str] = {}
    for number in range(share.size):
        file = share.word(number)
        await_growth(share, number)
        word = json.loads(file.read_text())
        if "error" in word:
            raise OSError(f"process {number}: {word['error']}")
        digests |= word["files"]
        file.unlink()
    return digests


def await_growth(share: Share, number: int) -> None:
    """Wait for the word of a process. Raises OSError where the draft stops growing without it."""
    size, since = -1, time.monotonic()
    while not share.word(number).exists():
        now = sum(file.stat().st_size for file in share.draft.glob("*/*.safetensors"))
        if now != size:
            size, since = now, time.monotonic()
        # A process that was killed says nothing, and this one is not to wait for ever.
        if time.monotonic() - since > SILENT_SECONDS:
            raise OSError(f"process {number}: nothing of it for {SILENT_SECONDS} seconds")
        time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class Piece:
    """Some rows of a tensor in a file."""

    file: Path
    first: int
    shape: tuple[int, ...]


def read_shares(folder: Path, like: Callable[[str], Any]) -> dict[str, Tensor]:
    """The tensors of a folder: those for which ``like`` gives a tensor in shares, of their shape,
    with this process's share of it, the others whole.

    Raises UserError where the folder is damaged.
    """
    try:
        pieces = find_pieces(folder)
        return {name: read_one(name, found, like(name)) for name, found in pieces.items()}
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"{folder}: damaged or missing ({short(error)}); resume from an older checkpoint"
        ) from error


def find_pieces(folder: Path) -> dict[str, list[Piece]]:
    """All pieces by the name of their tensor, in order. Raises ValueError where rows are missing or
    stand in two files."""
    found: dict[str, list[Piece]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            places = json.loads(opened.metadata()[PLACES])
            for name in opened.keys():  # noqa: SIM118
                shape = tuple(opened.get_slice(name).get_shape())
                offset = int(places[name][OFFSETS][0]) if shape else 0
                found.setdefault(name, []).append(Piece(file, offset, shape))
    for name, pieces in found.items():
        pieces.sort(key=lambda piece: piece.first)
        begin = 0
        for piece in pieces:
            if piece.first != begin or piece.shape[1:] != pieces[0].shape[1:]:
                raise ValueError(f"{short(name)} has other rows at {begin}")
            begin += piece.shape[0] if piece.shape else 1
    return found


def read_one(name: str, pieces: list[Piece], weight: Any) -> Tensor:
    """One tensor from its pieces: its rows in the shares that ``weight`` has, or all of them."""
    if not pieces[0].shape:
        return read_rows(name, pieces[0], slice(None))
    size = pieces[-1].first + pieces[-1].shape[0]
    shape = (size, *pieces[0].shape[1:])
    mine = rows_of(weight) if weight is not None and tuple(weight.shape) == shape else None
    begin, end = mine or (0, size)
    rows = [
        read_rows(name, piece, slice(max(begin - piece.first, 0), end - piece.first))
        for piece in pieces
        # None of them, of a share without rows: then the first gives a tensor without any.
        if piece.first < end and begin < piece.first + piece.shape[0]
    ] or [read_rows(name, pieces[0], slice(0, 0))]
    value = torch.cat(rows)
    return from_rows(weight, value) if mine else value


def read_rows(name: str, piece: Piece, rows: slice) -> Tensor:
    """Some rows of a piece, counted from its own first one; of a number, itself."""
    with safe_open(piece.file, "pt") as opened:
        if not piece.shape:
            value: Tensor = opened.get_tensor(name)
            return value
        part: Tensor = opened.get_slice(name)[rows]
        return part
