"""Settings of the loss in text preference training; flags are named as in TRL's trainers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffdpo.errors import UserError
from diffdpo.flags import flag
from diffdpo.text.flags.train_settings import TransformersSettings

if TYPE_CHECKING:
    from diffdpo.objective.terms import Objective

REVERSE_KL = "reverse_kl"
DIVERGENCES = [REVERSE_KL, "forward_kl", "js_divergence", "alpha_divergence"]
# What other programs call a loss, and what to write here.
ELSEWHERE = {
    "kto_pair": "is kto, which takes pairs as well: --loss_type kto",
}
# Options that one loss or a few have; a run whose losses read none of them is not what was meant.
OPTIONS = ("alpha", "discopop_tau", "simpo_gamma", "desirable_weight", "undesirable_weight")
CHECKED = ["loss_type", "loss_weights", "beta", "label_smoothing", "cpo_alpha", "pref_bco_weight"]
CHECKED += [*OPTIONS, "ld_alpha", "use_weighting", "f_divergence_type", "f_alpha_divergence_coef"]


@dataclass(frozen=True)
class TextLossSettings(TransformersSettings):
    """The flags of the loss."""

    loss_type: list[str] = flag(
        ["sigmoid"], "rows of diffdpo.losses.LOSSES, added up", ["--pref_loss"], group="loss"
    )  # type: ignore[assignment]
    loss_weights: list[float] = flag([], "a weight for each loss; default: 1", group="loss")
    beta: float = flag(
        0.1,
        "strength of the anchor; orpo: weight of the odds ratio",
        aliases=["--pref_beta"],
        group="loss",
        above=0,
    )
    rpo_alpha: float | None = flag(
        None,
        "add the SFT loss of the chosen completions with this weight",
        aliases=["--pref_ftx"],
        group="loss",
        least=0,
    )
    cpo_alpha: float | None = flag(
        None,
        "the same beside losses without a reference, as in TRL; default: 1 for CPO's, else 0",
        group="loss",
        least=0,
    )
    pref_bco_weight: float | None = flag(
        None,
        "LLaMA-Factory's: the mean of the losses and this times bco_pair_mean, with weights 1 and"
        " this",
        group="loss",
        least=0,
    )
    simpo_gamma: float = flag(0.5, "simpo: margin asked for", group="loss")
    alpha: float | None = flag(
        None,
        "AlphaPO's power, of simpo and CPO as well; default: 0.25 for alphapo, 0 for the others",
        group="loss",
    )
    discopop_tau: float | None = flag(
        None, "discopop: temperature; default: 0.05", group="loss", above=0, most=1
    )
    f_divergence_type: str = flag(
        REVERSE_KL,
        "what holds the policy to the reference, for losses that read the margin alone",
        group="loss",
        choices=DIVERGENCES,
    )
    f_alpha_divergence_coef: float | None = flag(
        None, "alpha_divergence: its alpha; default: 0.5", group="loss"
    )
    ld_alpha: float | None = flag(
        None,
        "weight of the tokens beyond the shorter completion of a pair (LD-DPO); default: 1",
        changes="scores",
        group="loss",
        least=0,
        most=1,
    )
    use_weighting: bool = flag(
        False,
        "weigh a pair by how likely the policy is to write its completions itself (WPO)",
        group="loss",
    )
    orpo_nll_on_prompt: bool = flag(
        True, "orpo: the likelihood term covers the prompt as well, as in TRL", group="loss"
    )


def loss_problems(settings: TextLossSettings, stores_scores: bool, soft_labels: bool) -> list[str]:
    """A line for each mistake in the losses and their settings; ``stores_scores``: the reference's
    scores are to be computed before training; ``soft_labels``: labels may be uncertain."""
    # The default is known to be right; to check any other loads PyTorch, which takes seconds.
    plain, settings = TextLossSettings(), settings.sound()
    if all(getattr(settings, name) == getattr(plain, name) for name in CHECKED):
        return []
    if not settings.loss_type:
        return ["--loss_type: name one loss or several"]
    try:
        objective = text_objective(settings)
    except UserError as error:
        return list(error.mistakes)
    lines = unread(settings, objective)
    sorting = [t.name for t in objective.terms if t.row.of_step]
    if soft_labels and sorting:
        lines.append(f"--soft_label_scale: {sorting[0]} sorts pairs, and takes no soft labels")
    if stores_scores and objective.reference_free:
        lines.append(f"--precompute_ref_log_probs: loss {settings.loss_type[0]} has no reference")
    if stores_scores and objective.needs_kl:
        lines.append(
            "--precompute_ref_log_probs: kto scores new pairs of prompt and completion in every"
            " step"
        )
    return lines


def unread(settings: TextLossSettings, objective: Objective) -> list[str]:
    """A line for each option that is given and that no loss reads."""
    from diffdpo.objective.making import unread_options  # not above: it loads PyTorch

    names, lines = ", ".join(settings.loss_type), unread_options(settings, objective, OPTIONS)
    plain, settings = TextLossSettings(), settings.sound()
    if settings.beta != plain.beta and {*settings.loss_type} == {"sft"}:
        lines.append("--beta: sft does not read it; leave it out")
    if settings.use_weighting and not objective.paired:
        lines.append(f"--use_weighting weighs pairs; {names} judges single items")
    sorting = [t.name for t in objective.terms if t.row.of_step]
    if settings.use_weighting and sorting:
        lines.append(f"--use_weighting weighs single pairs; {sorting[0]} sorts those of a step")
    free = [t.name for t in objective.terms if t.row.reference_free and t.name != "sft"]
    if settings.ld_alpha is not None and (free or not objective.paired):
        lines.append(f"--ld_alpha is for losses of pairs with a reference; {names} is none")
    alpha = settings.f_alpha_divergence_coef
    if alpha is not None and settings.f_divergence_type != "alpha_divergence":
        lines.append("--f_alpha_divergence_coef belongs to --f_divergence_type alpha_divergence")
    return lines


def text_objective(settings: TextLossSettings) -> Objective:
    """The weighted sum of the losses of ``--loss_type``, with the SFT loss that belongs to them or
    is asked for, and BCO's where that is.

    Raises UserError for unknown losses, weights that do not match, and sums of losses of different
    kinds.
    """
    from diffdpo.losses import LOSSES  # not above: it loads PyTorch
    from diffdpo.objective.making import make_objective

    names, weights = list(settings.loss_type), list(settings.loss_weights)
    for name in names:
        if name in ELSEWHERE:
            raise UserError(f"--loss_type {name} {ELSEWHERE[name]}")
        if name in LOSSES and LOSSES[name].only == "images":
            raise UserError(f"--loss_type {name} is defined on pictures alone")
    # Weights of the wrong number stay as they are, for ``make_objective`` to name the mistake.
    if len(weights) in (0, len(names)):
        weights = weights or [1.0] * len(names)
        if bco := settings.pref_bco_weight:
            if any(LOSSES[name].reference_free for name in names if name in LOSSES):
                raise UserError("--pref_bco_weight: BCO has a reference, the losses beside it not")
            names, weights = [*names, "bco_pair_mean"], [*weights, bco]
            weights = [weight / (1 + bco) for weight in weights]
        if sft := sft_weight(settings):
            names, weights = [*names, "sft"], [*weights, sft]
    return make_objective(settings, names, weights, beta=settings.beta)


def sft_weight(settings: TextLossSettings) -> float | None:
    """The weight of the SFT loss beside those of ``--loss_type``; None or 0: there is none.

    Raises UserError where two flags give it, or CPO's is given for a loss with a reference.
    """
    from diffdpo.losses import LOSSES  # not above: it loads PyTorch

    rows = [LOSSES[name] for name in settings.loss_type if name in LOSSES]
    if settings.cpo_alpha is None:
        published = 1.0 if any(row.with_sft for row in rows) else None
        stated = "sft" in settings.loss_type or settings.rpo_alpha is not None
        return settings.rpo_alpha if stated else published
    if settings.rpo_alpha is not None:
        raise UserError("--rpo_alpha and --cpo_alpha are the same here; keep one")
    if not all(row.reference_free for row in rows):
        raise UserError(
            "--cpo_alpha is for losses without a reference; --rpo_alpha adds sft to any"
        )
    return settings.cpo_alpha
