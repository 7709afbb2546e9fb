"""The tokenizer of a model, and for image–text models the processor beside it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from diffdpo.text.model.loading import load_tokenizer, sources_of
from diffdpo.text.settings import TextSettings
from diffdpo.text.tokens.template import with_template
from diffdpo.text.vision.models import reads_pictures
from diffdpo.text.vision.sight import Sight, load_sight, proved

Eyes = Callable[[], Sight]  # loads a processor once, where rows have pictures


def open_words(
    network: PreTrainedModel,
    settings: TextSettings,
    own: PreTrainedTokenizerBase | ProcessorMixin | None = None,
) -> tuple[PreTrainedTokenizerBase, Eyes | None]:
    """The tokenizer, ``own`` one or the model's, with the template that is named; and what loads
    the processor, None for models that read text alone.

    Raises UserError where there is no tokenizer.
    """
    name, tokenizer = str(settings.model_name_or_path), own
    if isinstance(own, ProcessorMixin):
        processor, tokenizer = own, own.tokenizer

        def handed_over() -> Sight:
            least, most = settings.image_min_pixels, settings.image_max_pixels
            return proved(Sight(processor, least, most), f"--model_name_or_path {name}")

        eyes: Eyes = cache(handed_over)
    else:
        eyes = cache(lambda: load_sight(sources_of(name, network), network, settings))
    words: Any = tokenizer
    words = with_template(words, settings) if words else load_tokenizer(network, settings)
    return words, eyes if reads_pictures(network) else None
