"""The checks of a pipeline that a program has in memory: those of one on disk, but for files."""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel

from diffdpo.errors import UserError
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.backbones.checks import check_text_config, check_tokenizer, on_meta
from diffdpo.image.backbones.parts import UNET, check_fit, tokenizer_of
from diffdpo.image.backbones.weights import check_finite
from diffdpo.image.lora_file import FUSE
from diffdpo.image.noise import ForwardProcess


def check_in_memory(family: type[Backbone], pipeline: Any) -> None:
    """Raises UserError for a part that is missing, not known, not finite, or does not fit."""
    texts = family.encoder_names[1:]
    for part in (UNET, "vae", *texts, *map(tokenizer_of, texts)):
        if getattr(pipeline, part, None) is None:
            raise UserError(f"the pipeline has no {part}, which is needed")
    for part, kind in ((UNET, UNet2DConditionModel), ("vae", AutoencoderKL)):
        if not isinstance(getattr(pipeline, part), kind):
            other = type(getattr(pipeline, part)).__name__
            raise UserError(f"the pipeline's {part} {other} is not supported ({kind.__name__} is)")
    ForwardProcess(pipeline.scheduler)
    encoders = {name: getattr(pipeline, name) for name in texts}
    for part, network in {UNET: pipeline.unet, "vae": pipeline.vae, **encoders}.items():
        if getattr(network, "peft_config", None):
            raise UserError(f"the pipeline's {part} has adapters: {FUSE}")
        check_finite(network.state_dict(), part)
    for name, encoder in encoders.items():
        tokenizer = tokenizer_of(name)
        check_text_config(encoder.config, name)
        check_tokenizer(getattr(pipeline, tokenizer), encoder.config, tokenizer)
    outline = on_meta(UNet2DConditionModel, pipeline.unet.config, UNET)
    configs = [encoder.config for encoder in encoders.values()]
    check_fit(family, outline, pipeline.vae.config, configs)
