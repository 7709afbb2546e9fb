"""VQAScore: how sure a model of pictures and text is that a picture shows its prompt (Lin et al.
2024, eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from diffdpo.engine.digests import text_digest
from diffdpo.errors import UserError, short
from diffdpo.metrics.identity import digest_of, network_name, tokenizer_digest, weight_files
from diffdpo.metrics.network_reward import remembering
from diffdpo.metrics.pixels import as_rgb
from diffdpo.metrics.reward import Reward
from diffdpo.metrics.weights import LOCAL, folder_of, load_network, place_of

HOLDS = "an image-text-to-text model with its processor, by save_pretrained"
HUB = "Qwen/Qwen3-VL-2B-Instruct"
QUESTION = 'Does this figure show "{}"? Please answer Yes or No.'
PROCESSOR = ("preprocessor_config.json", "processor_config.json")


def open_reward(name: str, path: str | None = None) -> Reward:
    """VQAScore by the model in a folder or at a hub id: the probability of "Yes" as the first token
    of the answer.

    Raises UserError where it cannot be loaded.
    """
    folder, place = folder_of(name, path, HUB, HOLDS), place_of(name, path)
    network = load_network(AutoModelForImageTextToText, folder, place)
    processor = load_processor(folder, network.config, place)
    yes = processor.tokenizer.encode("Yes", add_special_tokens=False)[0]

    @torch.no_grad()
    def score(pictures: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        texts = [asked(processor, prompt) for prompt in prompts]
        images = [[as_rgb(picture)] for picture in pictures]
        # Filled up on the right, where a causal network does not look.
        batch = processor(
            text=texts, images=images, padding=True, padding_side="right", return_tensors="pt"
        ).to(network.device, network.dtype)
        ends, place_of_end = (batch["attention_mask"].sum(dim=1) - 1).unique(return_inverse=True)
        logits = network(**batch, logits_to_keep=ends).logits.float()  # (N, ends, words)
        rows = torch.arange(len(texts), device=logits.device)
        return logits[rows, place_of_end].softmax(dim=-1)[:, yes].double().cpu().numpy()

    settings = [folder / file for file in PROCESSOR if (folder / file).is_file()]
    identity = {
        "weights": digest_of(weight_files(folder)),
        "network": network_name(folder, type(network).__name__),
        "pictures": f"{type(processor.image_processor).__name__} {digest_of(settings)[:8]}",
        "text": f"{tokenizer_digest(folder)} asked {text_digest(asked(processor, ''))[:8]}",
        "scale": "P(Yes)",
    }
    return Reward(name, remembering(score, network), identity, network)


def asked(processor: Any, prompt: str) -> str:
    """The conversation that ends where the answer to the question begins."""
    content = [{"type": "image"}, {"type": "text", "text": QUESTION.format(prompt)}]
    text: str = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    return text


def load_processor(folder: Path, config: Any, place: str) -> Any:
    """What makes the network's input, with pictures resized by Pillow.

    Raises UserError where it cannot be loaded, or has no form of conversations.
    """
    if type(config) not in PROCESSOR_MAPPING:
        raise UserError(f"{place}: transformers has no processor for {config.model_type}")
    try:
        processor = without_videos(PROCESSOR_MAPPING[type(config)]).from_pretrained(folder)
    except Exception as error:  # its files may hold anything
        reason = short(error, 200) or type(error).__name__
        raise UserError(f"{place}: its processor cannot be loaded ({reason})") from error
    if processor.chat_template is None and processor.tokenizer.chat_template is None:
        raise UserError(f"{place}: has no chat template; only models that answer questions fit")
    processor.chat_template = processor.chat_template or processor.tokenizer.chat_template
    return processor


def without_videos(kind: Any) -> Any:
    """A class of processors for pictures and text alone.

    Others want a processor of videos as well, and that wants torchvision, beside which transformers
    resizes pictures in another way.
    """

    def parts(cls: Any, folder: Path, *rest: Any, **options: Any) -> list[Any]:
        made = {
            "tokenizer": AutoTokenizer.from_pretrained(folder, **LOCAL),
            "image_processor": AutoImageProcessor.from_pretrained(folder, backend="pil", **LOCAL),
        }
        return [made.get(part) for part in kind.get_attributes()]

    def check(self: Any, name: str, part: Any) -> Any:
        return None if part is None else kind.check_argument_for_proper_class(self, name, part)

    own = {"_get_arguments_from_pretrained": classmethod(parts), "__module__": kind.__module__}
    return type(kind.__name__, (kind,), {**own, "check_argument_for_proper_class": check})
