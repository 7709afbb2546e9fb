"""The settings of rounds: pairs by the policy so far, training on them, judging, and again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffdpo.config import BaseSettings
from diffdpo.data.bundled import bundled
from diffdpo.data.paths import missing_data, missing_models
from diffdpo.flags import SEEDS, flag
from diffdpo.image.bundled import ROUNDS_RECIPE
from diffdpo.metrics.reward_settings import RewardSettings

REFERENCES = ["first", "previous"]
LABELS = ["rewards", "people"]
# What rounds sets for each command itself.
JUDGES = ["reward", "reward_model", "reward_batch_size", "reward_precision"]
TAKEN = {
    "make_pairs": ["prompts", "policy", *JUDGES],
    "train": ["dataset_name", "init_lora", "unet_init", "reference", "resume_from_checkpoint"],
    "evaluate": ["policy", "prompts", "headline", *JUDGES],
}
SHARED = ["pretrained_model_name_or_path", "output_dir", "seed", "config"]


@dataclass(frozen=True)
class RoundsSettings(RewardSettings):
    """All flags of ``rounds.py``."""

    output_dir: str = flag(
        "runs/rounds", "where rounds.json goes, and pairs-N, policy-N, evaluation-N of each"
    )
    rounds: int = flag(2, "at most so many rounds", least=1, most=1000)
    pretrained_model_name_or_path: str | None = flag(
        None, "the model that the first round begins with; default: the bundled one", group="model"
    )
    prompts: str | None = flag(
        None,
        "prompts to sample pairs for: a .txt, .tsv, .json or .jsonl file, or a data set",
        group="data",
    )
    eval_prompts: str | None = flag(
        None, "held-out prompts, of the same kinds, that every round is judged on", group="data"
    )
    held_out_reward: list[str] = flag(
        [],
        "rewards that make no pairs and judge every round; the first says when to stop",
        group="rewards",
    )
    label: str = flag(
        "rewards",
        "who chooses: the rewards, or people, for whom the work stops after sampling",
        group="rewards",
        choices=LABELS,
    )
    reference: str = flag(
        "first",
        "first: every round stays near the model named; previous: near the round before",
        group="training",
        choices=REFERENCES,
    )
    keep_pairs: float = flag(
        0.0,
        "pairs of earlier rounds to train on as well, as a share of those of the new round",
        group="training",
        least=0,
        most=10,
    )
    make_pairs: dict[str, Any] | None = flag(None, "further settings of make_pairs", group="data")
    train: dict[str, Any] | None = flag(
        None, "settings of train_diffusion_dpo: rate, steps, rank …", group="training"
    )
    evaluate: dict[str, Any] | None = flag(None, "further settings of evaluate", group="evaluation")
    seed: int = flag(0, "seed of candidates, training and judging", **SEEDS)

    def problems(self) -> list[str]:
        lines = super().problems()
        lines += missing_data(self.prompts) + missing_data(self.eval_prompts)
        lines += missing_models(self, ["pretrained_model_name_or_path"])
        needed: dict[str, object] = {"prompts": self.prompts, "eval_prompts": self.eval_prompts}
        needed["held_out_reward"] = self.held_out_reward
        if self.label == "rewards":
            needed["reward"] = self.reward
        lines += [f"--{name} is needed" for name, value in needed.items() if not value]
        if both := sorted(set(self.reward) & set(self.held_out_reward)):
            lines.append(f"--held_out_reward {both[0]}: makes the pairs, so it is not held out")
        for section, names in TAKEN.items():
            for name in self.section(section):
                if name in names + SHARED:
                    lines.append(f"{section}: {name} is set by rounds itself; leave it out")
        return lines

    @property
    def all_rewards(self) -> list[str]:
        """Those that choose and those that judge."""
        return [*self.reward, *self.held_out_reward]

    def section(self, name: str) -> dict[str, Any]:
        """The settings of one command."""
        return getattr(self, name) or {}

    @property
    def folder(self) -> Path:
        """The folder of all rounds."""
        return Path(self.output_dir)


@dataclass(frozen=True)
class DemoRoundsSettings(BaseSettings):
    """The one flag of ``diffdpo demo-rounds``."""

    output_dir: str = flag("runs/demo-rounds", "where the report and everything before it go")

    @property
    def rounds(self) -> list[str]:
        """The flags of the rounds."""
        return ["--config", bundled(ROUNDS_RECIPE), "--output_dir", self.output_dir]
