"""The settings of pairs of completions that are sampled for prompts and labelled by rewards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffdpo.config import Layer
from diffdpo.data.paths import missing_data, missing_models
from diffdpo.engine.run_config import layer_of_policy, recorded, result_problems
from diffdpo.flags import SEEDS, flag, restated
from diffdpo.metrics.reward_settings import TextRewardSettings
from diffdpo.pairs.settings import CandidateSettings
from diffdpo.text.evaluate_settings import RESULTS, EvaluateTextSettings
from diffdpo.text.flags.sources import the_one
from diffdpo.text.flags.table_settings import TABLE, TextTableSettings
from diffdpo.text.settings import TextModelSettings

TIED = {"dataset_name": ["dataset_config", "data_format", "split", *TABLE]}
ALWAYS = ["max_length", "truncation_mode", "cache_dir", "chat_template", "chat_template_kwargs"]


@dataclass(frozen=True)
class TextPairSettings(TextRewardSettings, CandidateSettings, TextModelSettings, TextTableSettings):
    """All flags of ``make_pairs.py`` for texts."""

    policy: str | None = flag(
        None, "who writes: the output folder of a finished run; default: the model", group="model"
    )
    dataset_name: str | None = flag(
        None,
        "rows whose prompts are continued, where prompts is not given; default: the run's",
        group="data",
    )
    dataset_config: str | None = restated(EvaluateTextSettings, "dataset_config")
    data_format: str | None = restated(EvaluateTextSettings, "data_format")
    split: str = flag("train", "split to read", ["--dataset_train_split"], group="data")
    max_length: int | None = restated(
        EvaluateTextSettings, "max_length", help="tokens of prompt and completion in dataset_name"
    )
    output_dir: str = flag(
        "runs/pairs", "folder of the new data set and of its record", group="evaluation"
    )
    max_new_tokens: int = flag(
        64, "a completion is cut here", group="evaluation", changes="candidates", least=1
    )
    sample_batch_size: int = flag(16, "completions written at once", group="evaluation", least=1)
    seed: int = flag(
        1,
        "of the candidates and choices by chance",
        group="evaluation",
        changes="candidates",
        **SEEDS,
    )

    def problems(self) -> list[str]:
        lines = super().problems()
        lines += missing_models(self, ["model_name_or_path"]) + missing_data(self.dataset_name)
        if not self.reward:
            lines.append("--reward is needed: a row of diffdpo.metrics.TEXT_REWARDS, or a function")
        if self.policy is not None:
            named = {} if self.prompts else {"dataset_name": self.dataset_name}
            return lines + result_problems(self.policy, RESULTS, named)
        if self.prompts is None and self.dataset_name is None:
            lines.append("--prompts is needed, or --dataset_name with rows that have prompts")
        if self.prompts and self.dataset_name:
            lines.append(f"--prompts {self.prompts}: --dataset_name is then not read; keep one")
        return lines

    @classmethod
    def beneath(cls, given: Mapping[str, Any]) -> Layer | None:
        """The model and, where no prompts are named, the rows that the policy's run recorded."""
        policy = given.get("policy")
        run = recorded(policy)
        run["split"] = run.get("dataset_train_split")
        run["dataset_name"] = the_one(run.get("dataset_name"))
        tied = {} if given.get("prompts") else TIED
        return layer_of_policy(policy, run, given, tied, ALWAYS)

    @property
    def sampler(self) -> str:
        """The name of what writes."""
        return str(self.policy or self.model_name_or_path)
