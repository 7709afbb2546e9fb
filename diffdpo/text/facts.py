"""The lines at the start of a text run: what will happen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from diffdpo.data.columns import listed
from diffdpo.engine.trainer import Trainer
from diffdpo.objective.terms import Objective
from diffdpo.text.flags.loss_settings import REVERSE_KL
from diffdpo.text.model.adapters import is_adapter, is_continued
from diffdpo.text.model.limits import longest_row, position_count
from diffdpo.text.model.loading import ADAPTER
from diffdpo.text.reading.mixed import MixedTexts
from diffdpo.text.reading.rows import TextRows
from diffdpo.text.reading.streamed import StreamedTexts
from diffdpo.text.scoring.scorer import TokenScorer
from diffdpo.text.settings import TextSettings
from diffdpo.text.tokens.template import template_line
from diffdpo.text.vision.rows import PictureRows


def text_facts(
    settings: TextSettings,
    objective: Objective,
    rows: TextRows,
    held_out: Mapping[str, TextRows],
    scorer: TokenScorer,
    trainer: Trainer,
) -> dict[str, str]:
    """What will happen, by heading."""
    trained, tally = sum(weight.numel() for weight in trainer.parameters), rows.tally
    close = (
        f", {tally.close} below the score margin" if settings.min_score_margin is not None else ""
    )
    reference = trainer.reference.name
    terms = [f"{term.weight:g} {term.name}" for term in objective.terms]
    terms += [f"{scorer.balance.weight:g} load balance of the experts"] if scorer.balance else []
    family, what = type(scorer.network).__name__, "pairs" if objective.paired else "labelled items"
    lines = {
        "model": (
            f"{settings.model_name_or_path} ({family}, {settings.mixed_precision} mixed precision)"
        ),
        "rows": (
            f"{len(rows):,} {what} of {tally.rows:,} rows ({tally.format}), {len(tally.bad)}"
            f" unusable{close}"
        ),
        **(rows.line(what) if isinstance(rows, StreamedTexts) else {}),
        **(rows.lines(what) if isinstance(rows, MixedTexts) else {}),
        **picture_line(settings, rows),
        **tally.lines(settings.max_length),
        **template_line(settings, rows.tokenizer),
        **beyond_positions(scorer.network, rows, *held_out.values()),
        **held_out_counts(held_out),
        "training": f"{trained:,} parameters, {kind_of(settings, scorer)}; reference: {reference}",
        "loss": "; ".join([" + ".join(terms), f"beta {settings.beta:g}", *variants(settings)]),
        **trainer.plan.lines(what),
    }
    return lines | balance(settings, objective, rows)


def kind_of(settings: TextSettings, scorer: TokenScorer) -> str:
    """What is trained."""
    if not is_adapter(scorer.network):
        return "full fine-tune"
    if not is_continued(scorer.network, settings):
        return f"LoRA rank {settings.lora_r}"
    own: Any = scorer.network.peft_config[ADAPTER]
    rank = getattr(own, "r", None)
    idle = [f"--{name}" for name in of_another_lora(settings, own)]
    return (
        f"the loaded adapter, trained further{f', rank {rank}' if rank else ''}"
        f"{f' (no effect: {listed(idle)})' if idle else ''}"
    )


def of_another_lora(settings: TextSettings, own: Any) -> list[str]:
    """The settings of a LoRA that are given, and that the loaded one has otherwise."""
    plain, words = TextSettings(), settings.lora_target_modules
    told = {
        "lora_r": settings.lora_r == getattr(own, "r", None),
        "lora_alpha": settings.lora_alpha == getattr(own, "lora_alpha", None),
        "lora_target_modules": {*words} == {*(getattr(own, "target_modules", None) or ())},
    }
    return [n for n, same in told.items() if not same and getattr(settings, n) != getattr(plain, n)]


def picture_line(settings: TextSettings, rows: TextRows) -> dict[str, str]:
    """What is read of pictures; without any, the flags about them that are given."""
    if isinstance(rows, PictureRows):
        return rows.line()
    given = settings.about_pictures
    return {"pictures": f"none in the rows; no effect has {' '.join(given)}"} if given else {}


def variants(settings: TextSettings) -> list[str]:
    """What changes the losses besides their names."""
    found = []
    if settings.f_divergence_type != REVERSE_KL:
        found.append(f"{settings.f_divergence_type} in place of the reverse KL")
    if settings.ld_alpha is not None:
        found.append(f"tails of longer completions count {settings.ld_alpha:g}")
    if settings.use_weighting:
        found.append("pairs weighed by the policy (WPO)")
    return found


def held_out_counts(held_out: Mapping[str, TextRows]) -> dict[str, str]:
    """What became of the rows to measure on."""
    lines = []
    for name, rows in held_out.items():
        tally = rows.tally
        left = f"{len(tally.bad)} unusable, {tally.close + tally.too_long} left out"
        cut = f"{tally.prompts_cut} prompts and {tally.completions_cut} completions cut"
        begin = f"{name}: " if name else ""
        lines.append(f"{begin}{len(rows):,} of {tally.rows:,} rows, {left}, {cut}")
    return {"eval rows": "; ".join(lines)} if lines else {}


def beyond_positions(
    network: PreTrainedModel, rows: TextRows, *held_out: TextRows
) -> dict[str, str]:
    """A line where rows are longer than what the model was made for."""
    longest, positions = longest_row(rows, *held_out), position_count(network)
    if not positions or longest <= positions:
        return {}
    return {
        "positions": f"the longest row has {longest} tokens; the model was made for {positions}"
    }


def balance(settings: TextSettings, objective: Objective, rows: TextRows) -> dict[str, str]:
    """Class counts, and weights that bring their ratio into the 1 to 4/3 that Ethayarajh et al.
    2024 advise."""
    if objective.paired:
        return {}
    good = rows.desirable
    bad = len(rows) - good
    about = "about " if isinstance(rows, StreamedTexts) else ""
    line = f"{about}{good:,} desirable, {bad:,} undesirable"
    ratio = settings.desirable_weight * good / max(1e-9, settings.undesirable_weight * bad)
    if good and bad and not 1 <= ratio <= 4 / 3:
        up = good < bad
        flag, weight = ("desirable", bad / good) if up else ("undesirable", good / bad)
        line += f"; weighted {ratio:.2f} to 1, --{flag}_weight {weight:.3g} balances them"
    if not good or not bad:
        line += "; WARNING: all of one label, and the loss compares the two"
    return {"labels": line}
