"""From the scores of a batch to one loss per pair: the loss, its settings, its scale and soft labels, in one value."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from diffdpo.config import TrainSettings
from diffdpo.errors import UserError
from diffdpo.losses import LOSSES, Loss, preference_loss


@dataclass(frozen=True)
class Objective:
    """``loss_B = L(scale · chosen, scale · rejected; beta)``.

    Text sets ``beta`` and leaves ``scale`` at 1, so that every value is the published one. Images put their beta
    into ``scale``: the losses that depend on beta · reward alone come out the same, and the squared ones (IPO, SPPO)
    are β² times the published value with the same minimum. At beta 5000 the published IPO is 1e-8 with a gradient
    below Adam's epsilon; this one trains.
    """

    name: str
    beta: float = 1.0
    scale: float = 1.0
    options: dict[str, float] = field(default_factory=dict)

    @property
    def row(self) -> Loss:
        return LOSSES[self.name]

    def __call__(
        self, chosen_B: Tensor, rejected_B: Tensor, outcome_B: Tensor | None = None, kl: Tensor | float = 0.0
    ) -> Tensor:
        """Losses ``(B,)`` of rewards before beta. ``outcome_B`` is P(chosen ≻ rejected) where labels are soft: the
        loss is then its expectation over the label, which for the sigmoid is cDPO with ε = 1 − outcome."""
        chosen_B, rejected_B, kl = self.scale * chosen_B, self.scale * rejected_B, self.scale * kl
        loss_B = preference_loss(self.name, chosen_B, rejected_B, beta=self.beta, kl=kl, **self.options)
        if outcome_B is None:
            return loss_B
        swapped_B = preference_loss(self.name, rejected_B, chosen_B, beta=self.beta, kl=kl, **self.options)
        return outcome_B * loss_B + (1 - outcome_B) * swapped_B

    @property
    def reward_scale(self) -> float:
        """What the logged rewards are multiplied with: beta, wherever it stands."""
        return self.scale * self.beta


def loss_options(settings: TrainSettings) -> dict[str, float]:
    """Those of the settings that the chosen loss reads.

    Raises UserError for an unknown loss, and where label smoothing is asked of a loss that has none.
    """
    row = LOSSES.get(settings.loss_type)
    if row is None:
        raise UserError(f"--loss_type {settings.loss_type!r} is unknown; known: {', '.join(LOSSES)}")
    if settings.label_smoothing and "label_smoothing" not in row.options:
        having = [name for name, other in LOSSES.items() if "label_smoothing" in other.options]
        raise UserError(f"--label_smoothing: loss {settings.loss_type} has none; these have: {', '.join(having)}")
    # Zero means "not given" on the command line, so that robust and exo_pair keep their published defaults.
    given = {name: getattr(settings, name, None) for name in row.options}
    return {k: v for k, v in given.items() if v is not None and not (k == "label_smoothing" and v == 0)}
