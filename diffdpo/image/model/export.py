"""Writes the result for its users: a diffusers LoRA file or a whole pipeline, with a model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import ModelCardData
from torch import nn

from diffdpo.engine.files import atomic_files
from diffdpo.image.backbones.base import Backbone, tokenizer_of
from diffdpo.image.lora_file import lora_in
from diffdpo.image.model.lora_export import write_lora
from diffdpo.image.settings import ImageSettings
from diffdpo.report.model_card import data_of, hub_id, load_from, model_card, write_card

LOAD_LORA = """from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained("{base}")
pipeline.load_lora_weights("{folder}", weight_name="{file}")"""

LOAD_FULL = """from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained("{folder}")"""


def export(
    backbone: Backbone, network: nn.Module, settings: ImageSettings, last: Mapping[str, float]
) -> Path:
    """Write LoRA or pipeline, and README.md, into ``output_dir``; returns the path to load."""
    folder = Path(settings.output_dir)
    with atomic_files(folder) as draft:
        if settings.is_lora:
            write_lora(backbone, network, settings, last, draft)
        else:
            save_pipeline(backbone, network, settings, draft)
        result = lora_in(draft) or ""
        write_card(card(settings, last, result), draft, folder)
    return folder / result


def save_pipeline(
    backbone: Backbone, network: nn.Module, settings: ImageSettings, folder: Path
) -> None:
    """Save the pipeline as it was published, with the trained network inside."""
    if backbone.pipeline_in_memory is not None:
        backbone.pipeline_in_memory.save_pretrained(
            folder
        )  # its network is the one that was trained
        return
    # Loaded anew: the pipeline of training may lack its encoders, and has no safety checker.
    name = settings.pretrained_model_name_or_path
    # diffusers asks for parts that the pipeline does without, unless it is told so.
    lacking = [one for one in backbone.encoder_names[1:] if one not in backbone.origin.texts()]
    given = {**dict.fromkeys([*lacking, *map(tokenizer_of, lacking)]), backbone.part: network}
    pipeline = backbone.pipeline_class.from_pretrained(
        name, **settings.hub_options, **given, use_safetensors=True
    )
    pipeline.save_pretrained(folder)


def card(settings: ImageSettings, last: Mapping[str, float], file: str) -> str:
    """The model card: what the result is, a pipeline or the LoRA ``file``, and how diffusers loads
    it."""
    base, folder = str(settings.pretrained_model_name_or_path), load_from(settings)
    facts = ModelCardData(
        base_model=hub_id(base),
        library_name="diffusers",
        tags=["diffusion-dpo", "text-to-image"],
        datasets=data_of(*settings.datasets),
    )
    kind, code = ("A LoRA", LOAD_LORA) if settings.is_lora else ("A full fine-tune", LOAD_FULL)
    what = (
        f"{kind} of `{base}`, trained with Diffusion-DPO (Wallace et al. 2023, arXiv 2311.12908) by"
        " diffdpo."
    )
    code = code.format(base=base, folder=folder, file=file)
    return model_card(settings, facts, what, code, last, settings.dataset_name)
