"""The checks of a pipeline that a program has in memory: those of one on disk, but for files."""

from __future__ import annotations

import inspect
from typing import Any

from diffdpo.errors import UserError
from diffdpo.image.backbones.base import Backbone, tokenizer_of
from diffdpo.image.backbones.checks import check_text_config, check_tokenizer, on_meta
from diffdpo.image.backbones.parts import check_distilled, check_fit, check_process
from diffdpo.image.backbones.weights import check_finite
from diffdpo.image.lora_file import FUSE


def check_in_memory(family: type[Backbone], pipeline: Any, is_turbo: bool) -> None:
    """Raises UserError for a part that is missing, not known, not finite, does not fit, or is
    distilled."""
    left_out = {n for n in family.optional_encoders if getattr(pipeline, n, None) is None}
    texts = [name for name in family.encoder_names[1:] if name not in left_out]
    for part in (family.part, "vae", *texts, *map(tokenizer_of, texts)):
        if getattr(pipeline, part, None) is None:
            raise UserError(f"the pipeline has no {part}, which is needed")
    for part, kind in ((family.part, family.network_class), ("vae", family.vae_class)):
        if not isinstance(getattr(pipeline, part), kind):
            other = type(getattr(pipeline, part)).__name__
            raise UserError(f"the pipeline's {part} {other} is not supported ({kind.__name__} is)")
    family.check_registered(registered(pipeline))
    check_process(family, pipeline.scheduler)
    network = getattr(pipeline, family.part)
    encoders = {name: getattr(pipeline, name) for name in texts}
    for part, module in {family.part: network, "vae": pipeline.vae, **encoders}.items():
        if getattr(module, "peft_config", None):
            raise UserError(f"the pipeline's {part} has adapters: {FUSE}")
        check_finite(module.state_dict(), part)
    for name, encoder in encoders.items():
        tokenizer = tokenizer_of(name)
        check_text_config(encoder.config, name)
        check_tokenizer(getattr(pipeline, tokenizer), encoder.config, tokenizer)
    outline = on_meta(family.network_class, network.config, family.part)
    check_distilled(family, registered(pipeline), outline.config, pipeline.scheduler, is_turbo)
    configs = {name: encoder.config for name, encoder in encoders.items()}
    check_fit(family, outline, pipeline.vae.config, configs)


def registered(pipeline: Any) -> dict[str, Any]:
    """The settings of a pipeline besides its components, as its class takes them."""
    # Without them another pipeline of the same components would be another model: they say whether
    # it is distilled, or which layers of a text encoder are read.
    taken = inspect.signature(type(pipeline).__init__).parameters
    own = {name: value for name, value in pipeline.config.items() if name in taken}
    return {name: value for name, value in own.items() if name not in pipeline.components}
