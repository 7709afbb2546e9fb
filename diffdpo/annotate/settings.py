"""Settings of the page on which people choose."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from diffdpo.config import BaseSettings
from diffdpo.data.columns import given_columns
from diffdpo.data.paths import missing_data
from diffdpo.engine.run_config import recorded, run_of
from diffdpo.errors import not_installed, short
from diffdpo.flags import SEEDS, flag, restated
from diffdpo.image.evaluate_settings import EvaluateSettings
from diffdpo.image.settings import ImageDataSettings

SAMPLES = "samples.jsonl"  # in a folder that holds pictures of runs
OF_SAMPLING = ["prompts", "num_prompts", "images_per_prompt", "num_inference_steps"]
OF_SAMPLING += ["guidance_scale", "sample_batch_size"]
ORDERS = ["random", "disagreement", "gain"]
TOKEN = re.compile(r"[\w.~-]+", re.ASCII)  # stands in an address as it is


@dataclass(frozen=True)
class AnnotateSettings(BaseSettings):
    """The flags of ``diffdpo annotate``."""

    names: list[str] = flag(
        [],
        "a data set of image, video or text pairs; or folders of runs at the same prompts and"
        " seeds: evaluations, which hold their pictures, or training runs, which are sampled first",
        positional=True,
    )
    output_dir: str | None = flag(None, "where the votes are kept, and the result goes")
    port: int = flag(8765, "port of the page; 0 takes a free one", least=0, most=65535)
    host: str = flag(
        "127.0.0.1", "address of the page; any other than this machine's needs a token"
    )
    token: str | None = flag(
        None, "what the address has to hold; default: made where one is needed"
    )
    export: str | None = flag(
        None, "write the votes so far as a data set to this folder, and serve no page"
    )
    votes_per_pair: int = flag(3, "at most so many people vote on a pair", least=1, most=10_000)
    repeat_share: float = flag(
        0.05, "share of pairs shown to a person once more, mirrored", least=0, most=0.5
    )
    order: str = flag(
        "random",
        "of pairs with equally many votes: random; disagreement, those first on which columns"
        " NAME_0 and NAME_1 of several scores disagree; or gain, of several runs those that tell"
        " most about their order",
        choices=ORDERS,
    )
    both_bad: str = flag(
        "drop",
        "what it means in the exported pairs: drop, no vote; or tie",
        choices=["drop", "tie"],
    )
    seed: int = flag(0, "seed of sides, order and repeats, and of sampled runs", **SEEDS)
    dataset_split_name: str | None = flag(
        None,
        "split to read; default: train, and for the prompts of runs that of an evaluation",
        aliases=["--split"],
        group="data",
    )
    dataset_config_name: str | None = restated(ImageDataSettings, "dataset_config_name")
    cache_dir: str | None = restated(ImageDataSettings, "cache_dir")
    chosen_column: str | None = restated(ImageDataSettings, "chosen_column")
    rejected_column: str | None = restated(ImageDataSettings, "rejected_column")
    prompt_column: str | None = restated(ImageDataSettings, "prompt_column")
    data_format: str | None = flag(
        None, "a row of IMAGE_FORMATS or TEXT_FORMATS; default: told by the columns", group="data"
    )
    prompts: str | None = flag(
        None,
        "file or data set of prompts, to sample training runs at; default: those of the first run's"
        " pairs",
        group="evaluation",
    )
    num_prompts: int = restated(EvaluateSettings, "num_prompts")
    images_per_prompt: int = restated(EvaluateSettings, "images_per_prompt")
    num_inference_steps: int = restated(EvaluateSettings, "num_inference_steps")
    guidance_scale: float = restated(EvaluateSettings, "guidance_scale")
    sample_batch_size: int = restated(EvaluateSettings, "sample_batch_size")

    @property
    def holds_samples(self) -> list[bool]:
        """Of each name whether it is a folder with pictures of runs."""
        return [(Path(name) / SAMPLES).is_file() for name in self.names]

    @property
    def columns(self) -> dict[str, str | None]:
        """The columns that flags name, by role."""
        return given_columns(self, ("chosen", "rejected", "prompt"))

    def idle(self) -> dict[str, str]:
        sampled = len(self.names) > 1 and not any(self.holds_samples)
        return super().idle() | dict.fromkeys(
            [] if sampled else OF_SAMPLING, "no runs are sampled; what there is to choose is there"
        )

    def problems(self) -> list[str]:
        lines = super().problems()
        lines += not_installed("starlette", "uvicorn", "krippendorff")
        if not self.names:
            lines.append("annotate: pairs are needed: diffdpo annotate PAIRS, or RUN_A RUN_B …")
        if self.output_dir is None:
            lines.append("--output_dir is needed: votes are kept there")
        if self.token is not None and not TOKEN.fullmatch(self.token):
            lines.append(f"--token {short(repr(self.token))}: letters, digits and . _ ~ - alone")
        if len(set(self.names)) < len(self.names):
            lines.append("annotate: one of the runs is named twice")
        if len(self.names) == 1 and not any(self.holds_samples):
            lines += missing_data(self.names[0])
        return lines + self.problems_of_runs()

    def problems_of_runs(self) -> list[str]:
        """A line for each run that cannot be shown, and for flags that runs do not have."""
        if len(self.names) < 2:
            return []
        if any(self.holds_samples) and not all(self.holds_samples):
            other = self.names[self.holds_samples.index(False)]
            return [
                f"{other}: holds no {SAMPLES}, as the other folders do; evaluate it at the same"
                " prompts and seeds first"
            ]
        if lines := [f"{name}: no such folder" for name in self.names if not Path(name).is_dir()]:
            return lines
        return [
            f"{name}: is a run of texts, which is not sampled here; name a data set of text pairs"
            for name in self.names
            if "model_name_or_path" in recorded(run_of(name))
        ]
