"""The settings of the evaluation of a language model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffdpo.config import Layer
from diffdpo.data.bundled import is_bundled
from diffdpo.data.paths import missing_data, missing_models
from diffdpo.engine.run_config import (
    departures,
    layer_of_policy,
    recorded,
    result_problems,
    run_of,
)
from diffdpo.errors import short
from diffdpo.flags import SEEDS, flag
from diffdpo.metrics.reward_settings import TextRewardSettings
from diffdpo.text.bundled import PAIRS
from diffdpo.text.flags.picture_settings import SeenSettings
from diffdpo.text.flags.sources import the_one
from diffdpo.text.flags.table_settings import TABLE, TextTableSettings
from diffdpo.text.settings import NAME_BOTH, TextModelSettings

# Settings that an evaluation takes from the run: always, and while model or data are the run's own.
# Not trust_remote_code: to run code that came with a model is for the user to say, each time.
ALWAYS = ["max_length", "truncation_mode", "cache_dir", "chat_template", "chat_template_kwargs"]
ALWAYS += ["image_max_pixels", "image_min_pixels"]
TIED = {
    "model_name_or_path": ["model_revision"],
    "dataset_name": ["dataset_config", "data_format", "split", "media_dir", *TABLE],
}


@dataclass(frozen=True)
class EvaluateTextSettings(TextRewardSettings, TextModelSettings, TextTableSettings, SeenSettings):
    """All flags of ``evaluate_text.py``."""

    policy: list[str] = flag(
        [],
        "output folders of finished runs, or checkpoints (checkpoint-N) of any; all are compared"
        " with the reference of the first",
        group="model",
    )
    model_name_or_path: str | None = flag(
        None,
        "the reference; default: the run's",
        ["--reference"],
        group="model",
    )
    dataset_name: str | None = flag(
        None,
        "pairs to judge on: hub id, folder or file; default: the run's",
        group="data",
    )
    dataset_config: str | None = flag(
        None, "configuration of a hub data set", ["--dataset_config_name"], group="data"
    )
    data_format: str | None = flag(
        None, "a row of diffdpo.data.text.TEXT_FORMATS, or file.py:NAME", group="data"
    )
    prompts_name: str | None = flag(
        None,
        "rows whose prompts are continued; default: bundled prefixes, or the pairs",
        group="data",
    )
    split: str = flag("test", "split of both", ["--dataset_test_split"], group="data")
    max_length: int | None = flag(
        1024, "tokens of prompt and completion in the pairs", group="data", least=2
    )
    output_dir: str = flag(
        "runs/text-evaluation", "where evaluation.json and report.html go", group="evaluation"
    )
    reward: list[str] = flag(
        [],
        "rows of diffdpo.metrics.TEXT_REWARDS, or file.py:function of texts; the first gives the"
        " win rate; default: none, and sentiment of the bundled reviews",
        group="rewards",
    )
    num_prompts: int = flag(400, "at most so many distinct prompts", group="evaluation", least=1)
    samples_per_prompt: int = flag(
        2, "continuations of each, by either model", group="evaluation", least=1
    )
    max_new_tokens: int = flag(64, "a continuation is cut here", group="evaluation", least=1)
    batch_size: int = flag(64, "rows at once", group="evaluation", least=1)
    generator_url: str | None = flag(
        None,
        "base of an OpenAI-compatible service, http://127.0.0.1:8000/v1 for example, that has the"
        " models and writes the continuations; default: they are written here",
        group="evaluation",
    )
    generator_model: list[str] = flag(
        [],
        "names under which the service has the reference and then every policy; default: their"
        " paths",
        group="evaluation",
    )
    generator_api_key_env: str | None = flag(
        None,
        "the environment variable with the service's key, which is stored nowhere",
        group="evaluation",
    )
    generator_timeout: float | None = flag(
        None,
        "seconds that the service may take for a text; default: 120",
        group="evaluation",
        above=0,
        most=86_400,
    )
    seed: int = flag(
        0, "of the choice of prompts, the sampling and the intervals", group="evaluation", **SEEDS
    )

    def problems(self) -> list[str]:
        lines = super().problems()
        model, data = self.model_name_or_path, self.dataset_name
        if (model is None) != (data is None):
            lines.append(NAME_BOTH)
        named = {"model_name_or_path": model, "dataset_name": data}
        for place, run in enumerate(self.policy or [None]):
            lines += result_problems(run, RESULTS, {} if place else named, True)
            if run is not None and run in self.policy[:place]:
                lines.append(f"--policy {run}: is named twice")
        lines += self.generator_problems()
        lines += missing_models(self, ["model_name_or_path"])
        return lines + missing_data(data) + missing_data(self.prompts_name)

    def generator_problems(self) -> list[str]:
        """A line for each setting of a service that cannot work."""
        names = ("generator_model", "generator_api_key_env", "generator_timeout")
        if self.generator_url is None:
            return [f"--{name}: of which service? give --generator_url" for name in names
                    if getattr(self, name)]  # fmt: skip
        lines = []
        if not re.match(r"https?://[^/]", self.generator_url):
            url = short(self.generator_url)
            lines.append(f"--generator_url {url}: is no URL such as http://127.0.0.1:8000/v1")
        given, needed = len(self.generator_model), 1 + len(self.policy)
        if given not in (0, needed):
            lines.append(
                f"--generator_model: {given} names for a reference and {len(self.policy)} policies;"
                f" give {needed}, the reference's first"
            )
        return lines

    @property
    def judged_by(self) -> list[str]:
        """The rewards: those that are named, else the one that knows the bundled reviews."""
        ours = self.dataset_name is None or is_bundled(self.dataset_name, PAIRS)
        return self.reward or (["sentiment"] if ours else [])

    @classmethod
    def beneath(cls, given: Mapping[str, Any]) -> Layer | None:
        """What the first of the runs that are judged has recorded: its reference and the rows it
        held out."""
        policy = next(iter(given.get("policy") or []), None)
        run = recorded(run_of(policy)) if policy else {}
        run["model_name_or_path"] = reference_of(run)
        run["dataset_name"] = the_one(run.get("eval_dataset_name") or run.get("dataset_name"))
        run["split"] = run.get("dataset_test_split")
        return layer_of_policy(policy, run, given, TIED, ALWAYS)

    @property
    def departures(self) -> list[str]:
        """A line for each setting by which the comparison is not with the reference of a policy's
        training, or prompts are cut otherwise than there."""
        told = ("model_name_or_path", "max_length", "image_max_pixels", "image_min_pixels")
        return departures(self.policy, {name: getattr(self, name) for name in told}, compared)


def compared(folder: Path) -> dict[str, Any]:
    """What a run recorded, with the model that it was trained against as its model."""
    run = recorded(folder)
    return run | {"model_name_or_path": reference_of(run)} if run else {}


def reference_of(run: Mapping[str, Any]) -> Any:
    """The model that a run was trained against: the one that it began from, be it an adapter,
    unless another was named."""
    return run.get("ref_model_name_or_path") or run.get("model_name_or_path")


RESULTS = ["adapter_config.json", "config.json"]  # in the folder of a finished run
