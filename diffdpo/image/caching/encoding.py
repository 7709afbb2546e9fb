"""The autoencoder over all images of a data set, in one pass: decoded by workers ahead of it, in
batches of one size.

Shapes: ``K`` rows at once, ``F`` flips (as it is, mirrored), two sides (first and second image of a
row), so ``K·2·F`` images; latents ``CHW``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from diffdpo.batched import batched
from diffdpo.cache.fetching import one_behind
from diffdpo.cache.shards import Numbered, numbered
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.pictures.pixels import Augmentation, PixelImage, frame
from diffdpo.image.reading.pairs import ImagePairs

SIDES = 2


@dataclass(frozen=True)
class Framed:
    """The images of some rows, those of a row next to each other: first side in every flip, then
    second side. Rows that cannot be read have a reason and no images."""

    pixels_NCHW: Tensor | None  # bytes; None where no row can be read
    sizes_and_crops_N4: Tensor  # height, width, top, left
    reasons: list[str | None]  # by row


class Pictures(TorchDataset):
    """Both images of usable rows in every flip, as pixels, by the numbers of the rows."""

    def __init__(self, pairs: ImagePairs, flips: int) -> None:
        self.pairs, self.flips = pairs, flips

    def __getitem__(self, number: int) -> list[PixelImage] | str:
        try:
            images = self.pairs.images(int(self.pairs.rows[number]))
        except (OSError, ValueError) as error:
            return str(error)  # a worker cannot raise it without ending the run
        resolution = self.pairs.framing.resolution
        flips = [Augmentation(flip=bool(f)) for f in range(self.flips)]
        return [frame(image, resolution, flip) for image in images for flip in flips]


def framed(rows: list[list[PixelImage] | str]) -> Framed:
    """The rows as one; runs in the workers, so that one tensor passes from there."""
    images = [image for row in rows if not isinstance(row, str) for image in row]
    sizes = [(*image.original_size, *image.crop_top_left) for image in images]
    return Framed(
        torch.stack([image.byte_CHW for image in images]) if images else None,
        torch.tensor(sizes, dtype=torch.int32).view(-1, 4),
        [row if isinstance(row, str) else None for row in rows],
    )


def flips_of(pairs: ImagePairs) -> int:
    """The number F of flips: the mirrored image is encoded where training asks for it."""
    return 2 if pairs.framing.flip else 1


def images_at_once(flips: int, chunk: int) -> int:
    """The images that the autoencoder gets at once: they decide how its sums are rounded."""
    return min(chunk, rows_at_once(flips, chunk) * SIDES * flips)


def rows_at_once(flips: int, chunk: int) -> int:
    """The rows K whose images fill a batch of the autoencoder of at most ``chunk`` images; one,
    where a batch does not hold those of a row."""
    return max(1, chunk // (SIDES * flips))


def encoded_rows(
    pairs: ImagePairs,
    flips: int,
    backbone: Backbone,
    chunk: int,
    workers: int,
    spans: Iterable[range],
) -> Iterator[Numbered]:
    """The table rows of ``spans`` with their numbers: the posteriors of a pair's images, ``chunk``
    images at a time, which ``workers`` processes decode ahead."""
    at_once = rows_at_once(flips, chunk)
    whole = at_once * SIDES * flips
    asked: deque[range] = deque()

    def plan() -> Iterator[list[int]]:
        for span in spans:
            for numbers in batched(span, at_once):
                asked.append(numbers)
                yield list(numbers)

    batches = DataLoader(
        Pictures(pairs, flips), batch_sampler=plan(), collate_fn=framed, num_workers=workers
    )  # type: ignore[arg-type]

    def results() -> Iterator[tuple[Framed, Tensor]]:
        for batch in batches:
            if batch.pixels_NCHW is None:
                yield batch, torch.empty(0)
                continue
            # Filled up: the shape of a batch decides how sums are rounded, and a row must not
            # depend on those beside it.
            mean, std = backbone.encode_images(filled(batch.pixels_NCHW, whole), chunk)
            # The posterior, not a sample of it: every visit draws its own. And in the autoencoder's
            # precision, from which nothing is lost: bfloat16 takes half the disk.
            yield batch, torch.stack([mean, std]).to(backbone.vae.dtype)

    for batch, both in one_behind(results()):
        yield from numbered(asked.popleft(), table_rows(batch, both, SIDES * flips))


def filled(pixels_NCHW: Tensor, count: int) -> Tensor:
    """``count`` images: those that are there, and the last one again."""
    missing = count - len(pixels_NCHW)
    if not missing:
        return pixels_NCHW
    again = pixels_NCHW[-1:].expand(missing, *pixels_NCHW.shape[1:])
    return torch.cat([pixels_NCHW, again])


def table_rows(batch: Framed, both: Tensor, images: int) -> Iterator[dict[str, Any]]:
    """A table row for each row of a batch, of so many images: its tensors in the format of
    safetensors, or the reason why it has none."""
    first = 0
    for reason in batch.reasons:
        if reason is not None:
            yield {"tensors": None, "unreadable": reason}
            continue
        mean, std = both[:, first : first + images]
        exact = {"mean": mean.clone(), "std": std.clone()}
        exact["sizes_and_crops"] = batch.sizes_and_crops_N4[first : first + images].clone()
        yield {"tensors": save(exact), "unreadable": None}
        first += images
