"""The tokenizer of a model, and for image–text models the processor beside it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin
from transformers.utils import IMAGE_PROCESSOR_NAME, PROCESSOR_NAME

from diffdpo.errors import UserError
from diffdpo.text.evaluate_settings import EvaluateTextSettings
from diffdpo.text.model.loading import load_tokenizer, sources_of
from diffdpo.text.settings import TextSettings
from diffdpo.text.tokens.template import with_template
from diffdpo.text.vision.models import reads_pictures
from diffdpo.text.vision.sight import Sight, load_sight, proved

PROCESSOR_FILES = (PROCESSOR_NAME, IMAGE_PROCESSOR_NAME)
Eyes = Callable[[], Sight]  # loads a processor once, where rows have pictures


def open_words(
    network: PreTrainedModel,
    settings: TextSettings | EvaluateTextSettings,
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


def check_same_sight(
    sight: Sight, run: str, network: PreTrainedModel, settings: EvaluateTextSettings
) -> None:
    """Raises UserError where a policy has a processor of its own that makes something else of
    pictures than that of the reference."""
    if not any((Path(run) / name).is_file() for name in PROCESSOR_FILES):
        return
    own = load_sight([run], network, settings)
    if own.identity != sight.identity:
        raise UserError(f"--policy {run}: its processor makes other pictures than the reference's")
