"""Writes the result in the form its users load: ``save_pretrained`` of the adapter or the whole
model, and the tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import ModelCardData
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diffdpo.engine.files import atomic_files
from diffdpo.report.model_card import data_of, hub_id, load_from, model_card, write_card
from diffdpo.text.network import is_adapter
from diffdpo.text.settings import TextSettings

LOAD = """from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")"""


def export(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: TextSettings,
    last: Mapping[str, float],
) -> Path:
    """Write model or adapter, tokenizer and README.md into ``output_dir``."""
    folder = Path(settings.output_dir)
    with atomic_files(folder) as draft:
        network.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        write_card(card(network, settings, last), draft, folder)
    return folder


def card(network: PreTrainedModel, settings: TextSettings, last: Mapping[str, float]) -> str:
    """The model card: what the result is and how transformers loads it."""
    base, losses = str(settings.model_name_or_path), " + ".join(settings.loss_type)
    names = [source.name for source in settings.sources]
    facts = ModelCardData(
        base_model=hub_id(base),
        library_name="transformers",
        tags=["preference-optimization"],
        datasets=data_of(*names),
    )
    kind = "An adapter" if is_adapter(network) else "A full fine-tune"
    summary = f"{kind} of `{base}`, trained on text preferences ({losses}) by diffdpo."
    code = LOAD.format(folder=load_from(settings))
    return model_card(settings, facts, summary, code, last, ", ".join(names))
