"""What a page is shown of the cell of a data set, and what is stored of it in another one.

A picture is decoded and sent as a PNG, whatever it is stored as: a browser then shows what training
reads, notes in a file (the name of a model, a prompt) are not sent, and neither side is told by its
format. A video file is sent as it is, a list of pictures as one animation.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffdpo.data.cells import BadImage, Find, frames_in, unpack
from diffdpo.data.decode import is_video, open_image
from diffdpo.image.pictures.clips import first_frames
from diffdpo.image.sampling.sample import as_png

QUICK = 1  # zlib's level: the picture is needed soon and travels a short way
FRAME_MS = 125  # of a list of pictures, which has no rate of its own
MOST_FRAMES = 600
MATROSKA = b"\x1aE\xdf\xa3"  # WebM is a kind of it


@dataclass(frozen=True)
class Media:
    """The body of an answer and its type."""

    body: bytes
    type: str


def is_video_file(cell: Any, find: Find) -> bool:
    """Whether a cell holds a video file; False also for what cannot be read."""
    try:
        if frames_in(cell) is not None:
            return False
        content = unpack(cell, find)
        return isinstance(content, bytes | Path) and is_video(content)
    except (BadImage, OSError):
        return False


def shown(cell: Any, find: Find) -> Media:
    """What a browser shows of a cell. Raises BadImage for what cannot be read."""
    if is_video_file(cell, find):
        content: Any = unpack(cell, find)
        body = content.read_bytes() if isinstance(content, Path) else bytes(content)
        return Media(body, "video/webm" if body.startswith(MATROSKA) else "video/mp4")
    if frames_in(cell) is not None:
        return animation(cell, find)
    buffer = io.BytesIO()
    open_image(cell, find=find).save(buffer, format="PNG", compress_level=QUICK)
    return Media(buffer.getvalue(), "image/png")


def animation(cell: Any, find: Find) -> Media:
    """A list of pictures as one that moves. Raises BadImage."""
    first, *others = first_frames(cell, MOST_FRAMES, find=find)
    buffer = io.BytesIO()
    options: dict[str, Any] = {"duration": FRAME_MS, "loop": 0, "method": 0, "quality": 90}
    first.save(buffer, format="WEBP", save_all=True, append_images=others, **options)
    return Media(buffer.getvalue(), "image/webp")


def stored(cell: Any, find: Find) -> bytes | list[bytes]:
    """The bytes of a cell as they are; a list of them for a list of pictures; a PNG for an array.

    Raises BadImage where there are none.
    """
    frames = frames_in(cell)
    if frames is not None:
        return [as_bytes(frame, find) for frame in frames]
    return as_bytes(cell, find)


def as_bytes(cell: Any, find: Find) -> bytes:
    """The same for one picture or video."""
    content = unpack(cell, find)
    try:
        if isinstance(content, Path):
            return content.read_bytes()
    except OSError as error:
        raise BadImage(f"cannot be read ({error.strerror})") from error
    return content if isinstance(content, bytes) else as_png(content)
