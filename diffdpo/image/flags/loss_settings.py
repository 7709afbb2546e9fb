"""Settings of the loss and of what the policy is held to, in image preference training."""

from __future__ import annotations

from argparse import ArgumentTypeError
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffdpo.errors import UserError
from diffdpo.flags import default_of, flag
from diffdpo.image.flags.adapter_settings import AdapterSettings
from diffdpo.image.flags.watch_settings import WatchSettings
from diffdpo.words import number

if TYPE_CHECKING:
    from diffdpo.objective.terms import Objective

SCORE = "score"
# Options that one loss or a few have.
OPTIONS = ["dpop_lambda", "linear_eta", "desirable_weight", "undesirable_weight"]
OPTIONS += ["beta_mapo", "snr_value"]
REFERENCE_DECAY = 0.995  # of Linear-DPO's published runs


def beta(word: str) -> float | None:
    """The beta that a word says; None for "auto". Raises ArgumentTypeError for other words."""
    if word == "auto":
        return None
    try:
        return number(word, float, may_be_none=False)
    except ArgumentTypeError as error:
        raise ArgumentTypeError(f"{error}; a number, or auto") from None


CHECKED = ["loss_type", "loss_weights", "label_smoothing", "winner_safeguard", "gap_scale"]
CHECKED += ["score_column", "reference", "sft", *OPTIONS]


@dataclass(frozen=True)
class ImageLossSettings(AdapterSettings, WatchSettings):
    """The flags of loss and reference."""

    loss_type: list[str] = flag(  # type: ignore[assignment]
        ["sigmoid"], "rows of diffdpo.losses.LOSSES, added up", group="loss"
    )
    loss_weights: list[float] = flag([], "a weight for each loss; default: 1", group="loss")
    beta_dpo: float | None = flag(
        5000.0,
        "strength of the anchor, on the mean over latent dimensions; auto: logits that would have a"
        " standard deviation of 1 under the reference",
        group="loss",
        read=beta,
        above=0,
    )
    beta_mapo: float = flag(0.1, "mapo: weight of the margin", group="loss", least=0)
    snr_value: float = flag(0.5, "mapo: factor of the errors", group="loss", above=0)
    gap_scale: float | None = flag(
        None, "capo: the gap is this times the difference of the scores; default: 1", group="loss"
    )
    score_column: str = flag(
        SCORE,
        "capo: NAME of the columns of both scores, NAME_0 and NAME_1 or chosen_NAME and"
        " rejected_NAME",
        group="data",
    )
    winner_safeguard: float | None = flag(
        None,
        "scale the loser's gradient so that the winner's error falls by at least this share of what"
        " it would fall without the loser",
        group="loss",
        least=0,
        most=1,
    )
    reference_decay: float | None = flag(
        None,
        f"decay of --reference ema for every step; default: {REFERENCE_DECAY}",
        group="loss",
        least=0,
        below=1,
    )
    sft: bool = flag(False, "supervised baseline on the winners, no reference", group="loss")

    @property
    def beta(self) -> float:
        """``beta_dpo``; 1 as long as it is to be found."""
        return 1.0 if self.beta_dpo is None else self.beta_dpo


def loss_problems(settings: ImageLossSettings, stores_scores: bool) -> list[str]:
    """A line for each mistake in the loss and its settings; ``stores_scores``: the reference's
    scores are to be computed before training."""
    lines = []
    if settings.reference_decay is not None and settings.reference != "ema":
        lines.append("--reference_decay belongs to --reference ema; leave it out, or add that")
    if settings.reference == "ema" and stores_scores:
        lines.append("--reference_draws: the scores of --reference ema change with every step")
    if settings.sft and settings.loss_type not in (["sigmoid"], ["sft"]):
        named = " ".join(settings.loss_type)
        lines.append(f"--sft takes the place of --loss_type {named}; keep one of the two")
    if settings.sft and settings.loss_weights:
        lines.append("--loss_weights: --sft is one loss, beside no other; leave it out")
    # The default needs no check, and checking imports PyTorch, which takes seconds.
    if all(getattr(settings, name) == default_of(ImageLossSettings, name) for name in CHECKED):
        return lines
    if not settings.loss_type:
        return [*lines, "--loss_type: name one loss or several"]
    try:
        sound = settings.sound()
        return lines + unfit_options(sound, image_objective(sound), stores_scores)
    except UserError as error:
        return lines + list(error.mistakes)


def unfit_options(
    settings: ImageLossSettings, objective: Objective, stores_scores: bool
) -> list[str]:
    """A line for each option that the losses leave without effect."""
    from diffdpo.objective.making import unread_options  # not above: it loads PyTorch

    names = "sft" if settings.sft else ", ".join(settings.loss_type)
    lines = unread_options(settings, objective, OPTIONS)
    if settings.winner_safeguard is not None and not objective.paired:
        lines.append(f"--winner_safeguard holds the winner of a pair; {names} judges single items")
    if settings.winner_safeguard is not None and names == "sft":
        lines.append("--winner_safeguard: sft has no loser whose gradient could be scaled")
    if stores_scores and objective.reference_free:
        lines.append(f"--reference_draws: {names} has no reference whose scores could be stored")
    if settings.reference == "ema" and objective.reference_free:
        lines.append(f"--reference ema: {names} has no reference")
    gap_flags = {
        "gap_scale": settings.gap_scale is not None,
        "score_column": settings.score_column != SCORE,
    }
    if not objective.reads_gap:
        given = [name for name, is_given in gap_flags.items() if is_given]
        lines += [f"--{name}: {names} reads no gap; capo does" for name in given]
    return lines


def image_objective(settings: ImageLossSettings) -> Objective:
    """The objective: the losses on beta times the reward, a mean over latent dimensions.

    Raises UserError for an unknown loss, or one that reads token probabilities.
    """
    from diffdpo.losses import LOSSES  # not above: it loads PyTorch
    from diffdpo.objective.making import make_objective

    names = ["sft"] if settings.sft else list(settings.loss_type)
    for name in names:
        if name in LOSSES and LOSSES[name].only == "text":
            raise UserError(
                f"--loss_type {name} is defined on token log-probabilities; images have none"
            )
    weights = [] if settings.sft else list(settings.loss_weights)
    return make_objective(settings, names, weights, scale=settings.beta)
