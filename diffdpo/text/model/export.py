"""Writes the result in the form its users load: ``save_pretrained`` of the adapter or the whole
model, and the tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import ModelCardData
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from diffdpo.engine.files import atomic_files
from diffdpo.report.model_card import data_of, hub_id, load_from, model_card, write_card
from diffdpo.text.model.adapters import is_adapter, write_adapter
from diffdpo.text.settings import TextSettings
from diffdpo.text.vision.models import reads_pictures

LOAD = """from transformers import {0}, {1}
model = {0}.from_pretrained("{folder}")
{2} = {1}.from_pretrained("{folder}")"""


def export(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | ProcessorMixin,
    settings: TextSettings,
    last: Mapping[str, float],
) -> Path:
    """Write model or adapter, tokenizer or processor, and README.md into ``output_dir``."""
    folder = Path(settings.output_dir)
    with atomic_files(folder) as draft:
        if is_adapter(network):
            write_adapter(network, settings, draft)
        else:
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
    kinds = ("AutoModelForCausalLM", "AutoTokenizer", "tokenizer")
    if reads_pictures(network):
        kinds = ("AutoModelForImageTextToText", "AutoProcessor", "processor")
    code = LOAD.format(*kinds, folder=load_from(settings))
    return model_card(settings, facts, summary, code, last, ", ".join(names))
