"""Clips: the first frames of a video, or of a list of pictures; a picture is a clip of one."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image

from diffdpo.data.cells import BadImage, Find, frames_in, unpack
from diffdpo.data.decode import IN_MEMORY, LIMITS, Limits, check_size, is_video, open_image
from diffdpo.errors import UserError, not_installed, short

Clip = list[Image.Image]


def open_clip(
    stored: Any,
    frames: int,
    enough: int | None = None,
    limits: Limits = LIMITS,
    find: Find = IN_MEMORY.file,
) -> Clip:
    """The first ``frames`` frames of what a cell holds, at its own rate, as ``open_image`` gives
    pictures.

    Raises BadImage where there are fewer, and as ``open_image`` does.
    """
    clip = first_frames(stored, frames, enough, limits, find)
    if len(clip) < frames:
        has = "a picture" if len(clip) == 1 else f"{len(clip)} frames"
        raise BadImage(f"{has}, and clips of {frames} frames are trained (--num_frames)")
    return clip


def first_frames(
    stored: Any,
    most: int,
    enough: int | None = None,
    limits: Limits = LIMITS,
    find: Find = IN_MEMORY.file,
) -> Clip:
    """The first frames of what a cell holds, at most so many and at least one."""
    cells = frames_in(stored)
    if cells is None:
        content = unpack(stored, find)
        if isinstance(content, bytes | Path) and is_video(content):
            return frames_of(content, most, limits)
        return [open_image(stored, enough, limits, find)]
    clip = [open_image(cell, enough, limits, find) for cell in cells[:most]]
    sizes = {picture.size for picture in clip}
    if len(sizes) > 1:
        raise BadImage(f"frames of {len(sizes)} sizes; those of a clip must be of one")
    return clip


def frames_of(content: bytes | Path, most: int, limits: Limits) -> Clip:
    """The first frames of a video file, in 8-bit RGB, turned as the file says.

    Raises BadImage where it cannot be decoded, and UserError where no decoder is installed.
    """
    if lines := not_installed("av"):
        raise UserError(*lines)
    import av

    try:
        file = io.BytesIO(content) if isinstance(content, bytes) else str(content)
        with av.open(file, mode="r") as video:
            stream = video.streams.video[0]
            check_size(stream.width, stream.height, limits)
            clip: Clip = []
            for frame in video.decode(stream):
                # Both turn anticlockwise.
                clip.append(frame.to_image().rotate(frame.rotation, expand=True))
                if len(clip) == most:
                    break
    except BadImage:
        raise
    except MemoryError as error:
        raise BadImage("takes more memory than there is") from error
    except Exception as error:  # decoders raise a different type for every damage
        raise BadImage(f"a video that cannot be read ({short(error)})") from error
    if not clip:
        raise BadImage("a video without frames")
    return clip
