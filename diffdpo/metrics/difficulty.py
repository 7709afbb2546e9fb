"""What an implicit accuracy is without any preference: that of pictures which are easier or harder
to predict.

Training moves every error, and more on pictures that are harder to predict: such a policy prefers
the easier picture of a pair whatever its labels were. Where people's choices are easier as well,
its implicit accuracy is above one half, and says nothing of preference. How far that goes is told
by two shares, q of pairs whose chosen picture is the easier one, and a of pairs whose easier
picture the policy prefers. If the two had nothing to do with each other, labels permuted between
pairs say, the accuracy would be

    q a + (1 − q)(1 − a)

the agreement by chance of two raters who name the easier picture so often (Cohen 1960, kappa's
p_e). Only what lies above it needs to know one pair from another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffdpo.metrics.implicit import Margins
from diffdpo.metrics.intervals import Estimate, clustered_mean


@dataclass(frozen=True)
class Difficulty:
    """The two shares, the accuracy that they come to by chance, and by how much the policy's own
    is above it. Easier is the picture that the reference predicts with less error."""

    easier_chosen: float
    easier_preferred: float
    accuracy: float
    gain: Estimate

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        shares = {"easier_chosen": self.easier_chosen, "easier_preferred": self.easier_preferred}
        return {**shares, "accuracy": self.accuracy, "gain": self.gain.as_dict()}


def reference_gap(margins: Margins) -> Tensor:
    """The reference's score of the chosen item less that of the rejected one, ``(P, K)``: above 0
    where it predicts the chosen picture with less error."""
    assert margins.chosen_PK2 is not None, "of draws alone"
    assert margins.rejected_PK2 is not None, "of chosen items alone"
    return (margins.chosen_PK2 - margins.rejected_PK2)[..., 1]


def by_difficulty(margins: Margins, seed: int) -> Difficulty:
    """The control of the implicit accuracy of pairs, from the same draws.

    The interval of the gain resamples prompts, to first order in the two shares.
    """
    # Signs: 1 where the easier picture was chosen, and where the policy prefers the easier one.
    gap_PK, margin_PK = reference_gap(margins), margins.margin_PK
    chosen_P, right_P = (torch.sign(x.double().mean(dim=1)) for x in (gap_PK, margin_PK))
    preferred_P = chosen_P * right_P
    chosen, preferred = float(chosen_P.mean()), float(preferred_P.mean())
    gain_P = (right_P - chosen_P * preferred - preferred_P * chosen + chosen * preferred) / 2
    return Difficulty(
        easier_chosen=(1 + chosen) / 2,
        easier_preferred=(1 + preferred) / 2,
        accuracy=(1 + chosen * preferred) / 2,
        gain=clustered_mean(gain_P.tolist(), margins.prompts, seed),
    )
