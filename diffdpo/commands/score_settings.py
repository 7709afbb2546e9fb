"""The settings of the command that lets rewards judge what is there already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffdpo.data.columns import given_columns
from diffdpo.data.paths import missing_data
from diffdpo.engine.settings import TrainSettings
from diffdpo.errors import not_installed
from diffdpo.extensions import is_own
from diffdpo.flags import SEEDS, flag, restated
from diffdpo.image.settings import ImageDataSettings
from diffdpo.metrics import REWARDS, TEXT_REWARDS, as_reward
from diffdpo.metrics.reward_settings import RewardSettings

PICTURES, TEXTS = "pictures", "texts"
OF_DATA = ["dataset_config_name", "dataset_split_name", "data_format", "cache_dir"]
OF_DATA += [f"{role}_column" for role in ("prompt", "chosen", "rejected", "label")]


@dataclass(frozen=True)
class ScoreSettings(RewardSettings):
    """All flags of ``score.py``."""

    dataset_name: str | None = flag(
        None, "pairs of pictures or texts, or rankings: hub id, folder or file", group="data"
    )
    images: str | None = flag(
        None, "in place of a data set: a folder of pictures, with captions in it", group="data"
    )
    prompts: str | None = flag(
        None,
        "with --images: a file with a prompt for each picture, in the order of their names;"
        " default: metadata.jsonl in the folder, or .txt files beside the pictures",
        group="data",
    )
    dataset_config_name: str | None = restated(ImageDataSettings, "dataset_config_name")
    dataset_split_name: str = restated(ImageDataSettings, "dataset_split_name")
    data_format: str | None = restated(
        ImageDataSettings,
        "data_format",
        help="a row of diffdpo.data.image_formats.IMAGE_FORMATS or of diffdpo.data.text."
        "TEXT_FORMATS, or file.py:NAME; default: told by the columns",
    )
    prompt_column: str | None = restated(ImageDataSettings, "prompt_column")
    chosen_column: str | None = restated(ImageDataSettings, "chosen_column")
    rejected_column: str | None = restated(ImageDataSettings, "rejected_column")
    label_column: str | None = restated(ImageDataSettings, "label_column")
    max_image_pixels: int = restated(ImageDataSettings, "max_image_pixels")
    max_image_ratio: float = restated(ImageDataSettings, "max_image_ratio")
    cache_dir: str | None = restated(ImageDataSettings, "cache_dir")
    reward: list[str] = flag(
        [],
        "rows of diffdpo.metrics.REWARDS or of diffdpo.metrics.TEXT_REWARDS, or file.py:function",
        group="rewards",
    )
    reward_batch_size: int = restated(
        RewardSettings, "reward_batch_size", help="pictures or texts judged at once"
    )
    precompute_dir: str = restated(
        TrainSettings, "precompute_dir", help="where scores are kept, to be found again"
    )
    output_dir: str = flag(
        "runs/score", "where scores.jsonl, score.json and report.html go", group="evaluation"
    )
    write_pairs: bool = flag(
        False,
        "also write the pairs of pictures with their scores as columns, train-00000.parquet, to"
        " train on with --score_column",
        group="evaluation",
    )
    seed: int = flag(0, "of the intervals and the halves of prompts", group="evaluation", **SEEDS)

    def idle(self) -> dict[str, str]:
        names = OF_DATA if self.images else []
        return super().idle() | dict.fromkeys(names, "--images names a folder, and no data set")

    def problems(self) -> list[str]:
        lines = super().problems()
        if not self.reward:
            lines.append("--reward is needed: what is to judge?")
        if (self.dataset_name is None) == (self.images is None):
            lines.append("name what is judged: either --dataset_name or --images")
        lines += missing_data(self.dataset_name) + missing_data(self.prompts)
        if self.images and not Path(self.images).is_dir():
            lines.append(f"--images {self.images}: no such folder")
        if self.prompts and not self.images:
            lines.append("--prompts names those of --images; a data set has its own")
        if len(self.kinds) > 1:
            lines.append("--reward: some judge pictures and some texts; name those of one kind")
        if self.write_pairs and (self.images or TEXTS in self.kinds):
            lines.append("--write_pairs writes pairs of pictures; leave it out")
        return lines + (not_installed("vaderSentiment") if "sentiment" in self.reward else [])

    @property
    def judges(self) -> tuple[dict[str, Any], Callable[[Any], Any]]:
        """The rewards of both kinds. A function of the user's is of the kind of the data."""
        return {**REWARDS, **TEXT_REWARDS}, as_reward

    @property
    def kinds(self) -> set[str]:
        """What is judged, by the rewards that are named and by --images."""
        named = [name for name in self.reward if not is_own(name)]
        kinds = {PICTURES for name in named if name in REWARDS}
        kinds |= {TEXTS for name in named if name in TEXT_REWARDS}
        return kinds | ({PICTURES} if self.images else set())

    @property
    def columns(self) -> dict[str, str | None]:
        """The columns that flags name, by role."""
        return given_columns(self, ("chosen", "rejected", "prompt", "label"))
