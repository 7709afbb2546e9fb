"""The flags of commands that let rewards judge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffdpo.config import BaseSettings
from diffdpo.data.paths import is_path
from diffdpo.engine.settings import PRECISIONS
from diffdpo.flags import flag
from diffdpo.metrics import REWARDS, reward_problems


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
        lines = [*super().problems(), *reward_problems(self.reward, REWARDS)]
        for word in self.reward_model:
            name, _, path = word.partition("=")
            if not path:
                lines.append(f"--reward_model {word}: is not of the form NAME=PATH")
            elif name not in self.reward:
                lines.append(f"--reward_model {word}: {name} is not among --reward")
            if is_path(path) and not Path(path).expanduser().exists():
                lines.append(f"--reward_model {word}: no such file or folder")
        return lines

    @property
    def reward_paths(self) -> dict[str, str]:
        """The path of the weights of each reward that has one named."""
        pairs = (word.partition("=") for word in self.reward_model)
        return {name: path for name, _, path in pairs}
