"""The flags of commands that let rewards judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffdpo.config import BaseSettings
from diffdpo.data.paths import is_path
from diffdpo.engine.settings import PRECISIONS
from diffdpo.errors import not_installed
from diffdpo.flags import flag, restated
from diffdpo.metrics import REWARDS, TEXT_REWARDS, as_reward, as_text_reward, reward_problems


@dataclass(frozen=True)
class RewardSettings(BaseSettings):
    """Which rewards judge, with which weights, and how many pictures at once."""

    reward: list[str] = flag(
        [],
        "rows of diffdpo.metrics.REWARDS, or file.py:function; the first gives the win rate",
        group="rewards",
    )
    reward_model: list[str] = flag(
        [],
        "NAME=PATH: the folder or hub id of a reward's weights, where not those of its row; of"
        " judge: the YAML file of its service",
        group="rewards",
    )
    reward_batch_size: int = flag(16, "pictures judged at once", group="rewards", least=1)
    reward_precision: str = flag(
        "no", "precision of a reward's network", group="rewards", choices=PRECISIONS
    )

    def problems(self) -> list[str]:
        lines = [*super().problems(), *reward_problems(self.all_rewards, *self.judges)]
        for word in self.reward_model:
            name, _, path = word.partition("=")
            if not path:
                lines.append(f"--reward_model {word}: is not of the form NAME=PATH")
            elif name not in self.all_rewards:
                lines.append(f"--reward_model {word}: {name} is not among --reward")
            if is_path(path) and not Path(path).expanduser().exists():
                lines.append(f"--reward_model {word}: no such file or folder")
        return lines

    @property
    def all_rewards(self) -> list[str]:
        """The names of the rewards that judge, whatever flag names them."""
        return self.reward

    @property
    def judges(self) -> tuple[dict[str, Any], Callable[[Any], Any]]:
        """The table of rewards, and what makes a row of an object of the user's."""
        return REWARDS, as_reward

    @property
    def reward_paths(self) -> dict[str, str]:
        """The path of the weights of each reward that has one named."""
        pairs = (word.partition("=") for word in self.reward_model)
        return {name: path for name, _, path in pairs}


@dataclass(frozen=True)
class TextRewardSettings(RewardSettings):
    """The same for rewards of texts."""

    reward: list[str] = flag(
        [],
        "rows of diffdpo.metrics.TEXT_REWARDS, or file.py:function of texts; the first gives the"
        " win rate",
        group="rewards",
    )
    reward_batch_size: int = restated(
        RewardSettings, "reward_batch_size", help="texts judged at once"
    )

    def problems(self) -> list[str]:
        return super().problems() + (
            not_installed("vaderSentiment") if "sentiment" in self.reward else []
        )

    @property
    def judges(self) -> tuple[dict[str, Any], Callable[[Any], Any]]:
        """The table of rewards of texts."""
        return TEXT_REWARDS, as_text_reward
