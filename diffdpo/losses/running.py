"""The mean of all rewards of a run so far, BCO's reference point."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class RunningMean:
    """The mean and the number of the rewards that were added, on the device once they were."""

    def __init__(self) -> None:
        self.mean, self.count = torch.zeros(()), torch.zeros((), dtype=torch.long)

    def with_rewards(self, total: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and number if ``count`` more rewards of the sum ``total`` were added."""
        mean, before = self.mean.to(total.device), self.count.to(total.device)
        after = before + count.long()
        # As a step from the old mean: a sum over a whole run would lose its digits in float32.
        return mean + (total - count * mean) / after, after

    def add(self, total: Tensor, count: Tensor, taken: Tensor) -> None:
        """Add rewards, unless the step was not ``taken``, a tensor of one truth value.

        Decided on the device: to read it would make the host wait.
        """
        mean, after = self.with_rewards(total, count)
        taken = taken.to(mean.device)
        self.mean = torch.where(taken, mean, self.mean.to(mean.device))
        self.count = torch.where(taken, after, self.count.to(mean.device))

    def state(self) -> dict[str, float]:
        """Both as plain numbers, exact to the last bit."""
        return {"mean": self.mean.item(), "count": int(self.count.item())}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what ``state`` gave."""
        self.mean = torch.tensor(float(state["mean"]))
        self.count = torch.tensor(int(state["count"]))
