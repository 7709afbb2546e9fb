"""Pictures of several policies at the same prompts and seeds, kept in a folder.

``samples/LABEL/NNNNN-K.png`` is picture K of prompt N; ``key.json`` beside them says what they were
made by. Pictures go to the disk batch by batch and are read from there in batches, so that memory
holds one. Of a batch that is not there whole all are made again: each picture is then the same
whatever was killed before, and in any number of processes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload

from PIL import Image
from tqdm.auto import tqdm

from diffdpo.batched import batched
from diffdpo.cache.keys import read_facts
from diffdpo.draws import Purpose, generator
from diffdpo.engine.console import say
from diffdpo.engine.crew import Crew
from diffdpo.engine.files import remove, tidy, write_atomically
from diffdpo.errors import UserError, short
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.sampling.sample import (
    PictureSettings,
    at_once,
    run,
    sampling,
    save_picture,
    seeds_for,
)

FOLDER, INDEX, KEY = "samples", "samples.jsonl", "key.json"


@dataclass(frozen=True)
class Planned:
    """A picture to be made: ``number`` counts the pictures of its prompt."""

    prompt: str
    prompt_index: int
    number: int
    seed: int

    @property
    def file(self) -> str:
        """Its name in the folder of its policy."""
        return f"{self.prompt_index:05}-{self.number}.png"


@dataclass(frozen=True)
class Plan:
    """The pictures that every policy makes: ``times`` of each prompt, every one from its seed."""

    prompts: list[str]
    times: int
    seed: int

    @property
    def pictures(self) -> list[Planned]:
        """All of them, those of a prompt next to each other."""
        seeds = seeds_for(self.seed, len(self.prompts) * self.times)
        return [
            Planned(prompt, index, number, seeds[index * self.times + number])
            for index, prompt in enumerate(self.prompts)
            for number in range(self.times)
        ]

    def more(self, most: int) -> list[Planned]:
        """The pictures by which each prompt has ``most`` of them; none where it has."""
        found = []
        for index, prompt in enumerate(self.prompts):
            draws = generator(self.seed, Purpose.SAMPLE, index, draw=1)
            seeds = draws.integers(0, 2**31, size=max(0, most - self.times))
            found += [
                Planned(prompt, index, self.times + place, int(seed))
                for place, seed in enumerate(seeds)
            ]
        return found

    def facts(self) -> dict[str, Any]:
        """What decides which picture a file is."""
        return asdict(self)


@dataclass(frozen=True)
class Album:
    """The pictures of one policy, in ``root``/samples/``label``."""

    root: Path
    label: str

    @property
    def folder(self) -> Path:
        """Where they are."""
        return self.root / FOLDER / self.label

    def path(self, picture: Planned) -> Path:
        """The file of a picture."""
        return self.folder / picture.file

    def files(self, pictures: Iterable[Planned]) -> PictureFiles:
        """These pictures, to be read."""
        return PictureFiles([self.path(picture) for picture in pictures])

    def line(self, picture: Planned) -> dict[str, Any]:
        """The picture's line in ``samples.jsonl``."""
        place = {"prompt": picture.prompt, "prompt_index": picture.prompt_index}
        file = f"{FOLDER}/{self.label}/{picture.file}"
        return {"policy": self.label, **place, "seed": picture.seed, "file": file}

    def prepare(self, facts: dict[str, Any]) -> None:
        """Make the folder ready: pictures that were made by other ``facts`` are deleted, and a line
        says which."""
        path = self.folder / KEY
        before = read_facts(path)
        if others := differing(before, facts):
            if before is not None:
                say(
                    f"note         {self.folder}: its pictures have other {', '.join(others)}; they"
                    " are sampled anew"
                )
            remove(self.folder)
            self.folder.mkdir(parents=True)
        write_atomically(path, json.dumps(facts, indent=1) + "\n")
        tidy(self.folder)

    def missing(self, batches: Sequence[Sequence[Planned]]) -> list[Sequence[Planned]]:
        """The batches of which a picture is not there."""
        return [
            batch for batch in batches if not all(self.path(picture).exists() for picture in batch)
        ]

    def fill(
        self,
        backbone: Backbone,
        network: Any,
        groups: Sequence[Sequence[Planned]],
        settings: PictureSettings,
        crew: Crew,
    ) -> None:
        """Sample this process's share of the pictures in ``groups`` that are not there."""
        size = at_once(backbone, settings)
        batches = [batch for group in groups for batch in batched(group, size)]
        missing = self.missing(crew.share(batches))
        if not missing:
            return
        label, quiet = f"sampling {self.label}", not crew.first
        with (
            tqdm(missing, label, unit="batch", disable=quiet) as bar,
            sampling(backbone, network),
        ):
            for batch in bar:
                prompts, seeds = [p.prompt for p in batch], [p.seed for p in batch]
                made = run(backbone, prompts, seeds, settings)
                for picture, image in zip(batch, made, strict=True):
                    save_picture(image, self.path(picture))


class PictureFiles(Sequence[Image.Image]):
    """Pictures on the disk, which are read as they are asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, place: int) -> Image.Image: ...

    @overload
    def __getitem__(self, place: slice) -> list[Image.Image]: ...

    def __getitem__(self, place: int | slice) -> Image.Image | list[Image.Image]:
        if isinstance(place, slice):
            return [read_picture(path) for path in self.paths[place]]
        return read_picture(self.paths[place])


def read_picture(path: Path) -> Image.Image:
    """The picture in a file. Raises UserError where it cannot be read."""
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({short(error)}); delete it, and it is sampled again"
        ) from error


def differing(before: dict[str, Any] | None, facts: dict[str, Any]) -> list[str]:
    """The names of the facts by which old pictures are not those that are wanted.

    Prompts that were added at the end, or left out there, leave all other pictures as they were.
    """
    if before is None:
        return list(facts)
    names = [name for name in {**before, **facts} if before.get(name) != facts.get(name)]
    old, new = before.get("prompts"), facts.get("prompts")
    if isinstance(old, list) and isinstance(new, list):
        common = min(len(old), len(new))
        return [name for name in names if name != "prompts" or old[:common] != new[:common]]
    return names


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSON lines. Raises UserError where the disk does not take them."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write_atomically(path, text)
