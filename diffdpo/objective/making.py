"""From settings to an objective: the named losses, their weights and options, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from diffdpo.errors import UserError, short
from diffdpo.extensions import named_row
from diffdpo.flags import default_of
from diffdpo.losses import LOSSES, Loss, as_loss
from diffdpo.losses.running import RunningMean
from diffdpo.losses.transforms import DIVERGENCES
from diffdpo.objective.terms import Objective, Term


class LossSettings(Protocol):
    """Settings that hold the options of the losses, each under the name that the loss gives it."""

    @property
    def label_smoothing(self) -> float: ...


def make_objective(
    settings: LossSettings,
    names: Sequence[str],
    weights: Sequence[float] = (),
    beta: float = 1.0,
    scale: float = 1.0,
) -> Objective:
    """The weighted sum of the named losses, each with the options that it reads of ``settings``.

    Raises UserError for unknown losses, weights that do not match or ask for nothing, label
    smoothing that no loss has, and sums of losses of different kinds.
    """
    weights = list(weights) or [1.0] * len(names)
    if len(weights) != len(names):
        raise UserError(f"--loss_weights: {len(weights)} weights for {len(names)} losses")
    if weights and (min(weights) < 0 or not any(weights)):
        shown = " ".join(f"{weight:g}" for weight in weights)
        raise UserError(f"--loss_weights {shown}: none may be below 0, and one must be above it")
    check_names(settings, names)
    divergence = divergence_of(settings, names)
    # Beta weighs the distance from a reference; a loss without one reads the plain score.
    scales = [1.0 if LOSSES[name].reference_free else scale for name in names]
    terms = tuple(
        Term(name, weight, beta, scale, read_options(settings, LOSSES[name]), divergence)
        for name, weight, scale in zip(names, weights, scales, strict=True)
    )
    single = [term.name for term in terms if not term.row.paired]
    if single and len(terms) > 1:
        raise UserError(
            f"--loss_type: {', '.join(single)} judges single items and cannot be added to another"
            " loss"
        )
    for term in terms:
        try_out(term)
    return Objective(
        terms,
        getattr(settings, "winner_safeguard", None),
        getattr(settings, "use_weighting", False),
        RunningMean() if any(term.row.running_mean for term in terms) else None,
    )


def try_out(term: Term) -> None:
    """Raise UserError where a loss does not take its options, or gives anything but one finite
    number a pair."""
    value_2 = torch.tensor([-1.0, -2.0])  # rewards, and log-probabilities as well
    try:
        data = {"nll_B": -value_2, "gap_B": -value_2, "reference_margin_B": -value_2}
        loss_2 = term.of_pairs(value_2, value_2 - 0.5, **data)
        wrong = "" if loss_2.shape == (2,) else f"gives shape {tuple(loss_2.shape)} for 2 pairs"
        wrong = wrong or ("" if loss_2.isfinite().all() else f"is not finite: {loss_2.tolist()}")
    except Exception as error:  # a user's own loss may raise anything
        wrong = short(error) or type(error).__name__
    if wrong:
        raise UserError(f"--loss_type {term.name}, beta {term.beta:g}: {wrong}")


def check_names(settings: LossSettings, names: Sequence[str]) -> None:
    """Raise UserError for an unknown loss, and for label smoothing that none of the losses has."""
    for name in names:
        named_row(name, LOSSES, "loss_type", as_loss)
    if settings.label_smoothing and not any(
        "label_smoothing" in LOSSES[name].options for name in names
    ):
        having = [name for name, row in LOSSES.items() if "label_smoothing" in row.options]
        raise UserError(
            f"--label_smoothing: loss {names[0]} has none; these have: {', '.join(having)}"
        )


def divergence_of(
    settings: LossSettings, names: Sequence[str]
) -> Callable[[Tensor], Tensor] | None:
    """The divergence that holds the policy to the reference; None for the reverse KL, DPO's own.

    Raises UserError where a loss does not read the margin alone: its reward then has a term of the
    prompt, which nobody knows.
    """
    name = getattr(settings, "f_divergence_type", "reverse_kl")
    if name == "reverse_kl":
        return None
    fitting = [loss for loss, row in LOSSES.items() if row.of_margin and row.only != "images"]
    for loss in names:
        if not (LOSSES[loss].of_margin or loss == "sft"):
            raise UserError(
                f"--f_divergence_type {name}: loss {loss} does not read the margin of a pair"
                f" alone; these do: {', '.join(fitting)}"
            )
    given, reward = getattr(settings, "f_alpha_divergence_coef", None), DIVERGENCES[name]
    alpha = 0.5 if given is None else given
    return lambda ratio: reward(ratio, alpha)


def unread_options(settings: object, objective: Objective, options: Iterable[str]) -> list[str]:
    """A line for each of these options that differs from its default and that no loss reads, and
    for weights of items that are all 0: such a run is not what was meant."""
    names, lines = ", ".join(term.name for term in objective.terms), []
    for name in options:
        is_read = any(name in term.row.options for term in objective.terms)
        if is_read or getattr(settings, name) == default_of(type(settings), name):
            continue
        having = ", ".join(loss for loss, row in LOSSES.items() if name in row.options)
        lines.append(f"--{name}: loss {names} does not read it; these do: {having}")
    weights = [getattr(settings, name) for name in ("desirable_weight", "undesirable_weight")]
    if not objective.paired and not any(weights):
        lines.append("--desirable_weight and --undesirable_weight are both 0: nothing is learned")
    return lines


def read_options(settings: LossSettings, row: Loss) -> dict[str, float]:
    """The settings that the loss reads, by name."""
    given = {name: getattr(settings, name, None) for name in row.options}
    # Zero means "not given" on the command line: robust and exo_pair keep their published defaults.
    return {
        name: value
        for name, value in given.items()
        if value is not None and not (name == "label_smoothing" and value == 0)
    }
