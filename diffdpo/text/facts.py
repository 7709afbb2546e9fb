"""The lines at the start of a text run: what will happen."""

from __future__ import annotations

from diffdpo.engine.trainer import Trainer
from diffdpo.objective import Objective
from diffdpo.text.network import is_adapter, is_continued
from diffdpo.text.rows import TextRows
from diffdpo.text.scorer import TokenScorer
from diffdpo.text.settings import TextSettings


def text_facts(
    settings: TextSettings,
    objective: Objective,
    rows: TextRows,
    scorer: TokenScorer,
    trainer: Trainer,
) -> dict[str, str]:
    """What will happen, by heading."""
    trained, tally = sum(weight.numel() for weight in trainer.parameters), rows.tally
    kind = "full fine-tune"
    if is_adapter(scorer.network):
        kind = (
            "the loaded adapter, trained further"
            if is_continued(scorer.network)
            else f"LoRA rank {settings.lora_r}"
        )
    close = (
        f", {tally.close} below the score margin" if settings.min_score_margin is not None else ""
    )
    family, what = type(scorer.network).__name__, "pairs" if objective.paired else "labelled items"
    lines = {
        "model": (
            f"{settings.model_name_or_path} ({family}, {settings.mixed_precision} mixed precision)"
        ),
        "rows": (
            f"{len(rows):,} {what} of {tally.rows:,} rows ({tally.format}), {len(tally.bad)}"
            f" unusable{close}"
        ),
        **tally.lines(settings.max_length),
        "training": f"{trained:,} parameters, {kind}; reference: {trainer.reference.name}",
        "loss": (
            " + ".join(f"{term.weight:g} {term.name}" for term in objective.terms)
            + f"; beta {settings.beta:g}"
        ),
        **trainer.plan(what),
    }
    return lines | balance(settings, objective, rows)


def balance(settings: TextSettings, objective: Objective, rows: TextRows) -> dict[str, str]:
    """Class counts, and weights that bring their ratio into the 1 to 4/3 that Ethayarajh et al.
    2024 advise."""
    if objective.paired:
        return {}
    good = sum(bool(item.desirable) for item in rows.items)
    bad = len(rows) - good
    line = f"{good:,} desirable, {bad:,} undesirable"
    ratio = settings.desirable_weight * good / max(1e-9, settings.undesirable_weight * bad)
    if good and bad and not 1 <= ratio <= 4 / 3:
        up = good < bad
        flag, weight = ("desirable", bad / good) if up else ("undesirable", good / bad)
        line += f"; weighted {ratio:.2f} to 1, --{flag}_weight {weight:.3g} balances them"
    return {"labels": line}
