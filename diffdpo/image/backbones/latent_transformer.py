"""What the families of transformers share: the pipeline's own encoding of prompts, latents in the
network's scale, and a network that takes a few more arguments than a UNet."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffdpo.errors import UserError
from diffdpo.image.backbones.base import Backbone, tokenizer_of
from diffdpo.image.backbones.chat import plain_tokenizer
from diffdpo.image.backbones.checks import check_autoencoder
from diffdpo.image.backbones.conditions import MASK, Condition, joined, rows_of

# Latents of a pass over shapes: small, and a multiple of every patch.
SIDE = 4


class LatentTransformer(Backbone):
    """A transformer over latents. A family says where its outputs of ``encode_prompt`` are."""

    part: ClassVar = "transformer"
    # Places in the result of ``encode_prompt``, of the prompt and of the negative prompt; without
    # the second, the empty prompt is encoded as any other.
    prompt_outputs: ClassVar[Mapping[str, int]]
    negative_outputs: ClassVar[Mapping[str, int]] = {}
    empty_prompt: ClassVar[str] = ""  # what stands for no prompt where guidance leads away from one
    # Whether prompts are padded to one length. Otherwise they are encoded one by one: what a
    # network sees must not depend on which prompts share a batch.
    fixed_length: ClassVar[bool] = True
    # Whether the tokenizer adds its special tokens. A template has them written out.
    adds_special_tokens: ClassVar[bool] = True
    patch: ClassVar[int] = 2  # latent cells of a token, along one side
    # Channels of the network for each of the latents': 1, or one for each cell of a packed patch.
    channels_per_latent: ClassVar[int] = 1
    native: ClassVar[int] = 1024  # pixels, where the network's configuration names no size
    # What the pipeline undoes before it decodes, beside the scale.
    undone: ClassVar[tuple[str, ...]] = ("shift_factor",)

    @property
    def pixel_multiple(self) -> int:
        return self.pixel_factor * self.patch

    @property
    def native_resolution(self) -> int:
        return self.native

    def posterior(self, pixels_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        posterior, config = self.vae.encode(pixels_NCHW).latent_dist, self.vae_config
        shift = getattr(config, "shift_factor", None) or 0.0
        scale = config.scaling_factor
        return (posterior.mean.float() - shift) * scale, posterior.std.float() * scale

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        given = list(dict.fromkeys(prompt for prompt in prompts if prompt))
        rows: dict[str, Condition] = {}
        for group in [given] if self.fixed_length and given else [[one] for one in given]:
            rows |= zip(group, rows_of(self.encode(group)), strict=True)
        if "" in prompts:
            negative = bool(self.negative_outputs)
            rows[""] = rows_of(self.encode([self.empty_prompt], negative))[0]
        return joined([rows[prompt] for prompt in prompts])

    def encode(self, prompts: Sequence[str], negative: bool = False) -> Condition:
        """The pipeline's encoding of prompts, or of the negative prompt that it has by default."""
        outputs = self.pipeline.encode_prompt(**self.encode_arguments(prompts, negative))
        places = self.negative_outputs if negative else self.prompt_outputs
        return self.condition_of({name: outputs[place] for name, place in places.items()})

    def condition_of(self, outputs: Mapping[str, Any]) -> Condition:
        """The condition that a pipeline's embeddings make; most are used as they are."""
        return {name: value.bool() if name == MASK else value for name, value in outputs.items()}

    def encode_arguments(self, prompts: Sequence[str], negative: bool) -> dict[str, Any]:
        """The arguments of ``encode_prompt`` with which the pipeline's call calls it."""
        # Where both have an argument, the defaults of the two differ: 226 and 512 tokens in Wan.
        call = self.call_defaults()
        own = inspect.signature(self.pipeline.encode_prompt).parameters
        arguments = {name: call[name] for name in own if name in call}
        arguments |= {"prompt": list(prompts), "device": self.text_encoders()[0].device}
        if "do_classifier_free_guidance" in own:
            arguments["do_classifier_free_guidance"] = negative
        return arguments

    def call_defaults(self) -> dict[str, Any]:
        """The arguments of the pipeline's call where pictures are sampled."""
        call = inspect.signature(type(self.pipeline).__call__).parameters
        return {name: one.default for name, one in call.items()} | self.text_options

    def prompt_limits(self) -> dict[str, int]:
        """The number of tokens that each text encoder reads, by the name of its tokenizer."""
        call = self.call_defaults()
        limits = {}
        for name in map(tokenizer_of, self.encoder_names[1:]):
            tokenizer = getattr(self.pipeline, name)
            if tokenizer is not None:
                is_clip = "CLIP" in type(tokenizer).__name__
                own = is_clip or "max_sequence_length" not in call
                limits[name] = tokenizer.model_max_length if own else call["max_sequence_length"]
        return limits

    def cut_prompts(self, prompts: Sequence[str]) -> int:
        if not prompts:
            return 0
        # Of several encoders the one that reads most decides: what it reads is not lost.
        limits = self.prompt_limits()
        name = max(limits, key=lambda name: limits[name])
        before = self.before_prompt()
        rows = self.token_ids(name, [before + prompt for prompt in prompts])
        return sum(len(row) > limits[name] for row in rows)

    @property
    def longest_prompt(self) -> int:
        limits, before = self.prompt_limits(), self.before_prompt()
        name = max(limits, key=lambda name: limits[name])
        special = len(self.token_ids(name, [""])[0])
        return limits[name] - len(self.token_ids(name, [before])[0]) + special

    def token_ids(self, tokenizer: str, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of texts, by the tokenizer of that name."""
        one = plain_tokenizer(getattr(self.pipeline, tokenizer))
        rows: list[list[int]] = one(
            list(texts), add_special_tokens=self.adds_special_tokens, verbose=False
        ).input_ids
        return rows

    def before_prompt(self) -> str:
        """What the pipeline's template puts before a prompt. Its tokens are read as well, and are
        not the prompt's; what stands after the prompt is cut off first."""
        return ""

    @classmethod
    def check_autoencoder(cls, config: Any) -> None:
        check_autoencoder(config, cls.undone)

    @classmethod
    def check_network(cls, config: Any, vae_config: Any, text_configs: Mapping[str, Any]) -> None:
        given = cls.latent_channels(vae_config) * cls.channels_per_latent
        check_channels(config.in_channels, given)

    @classmethod
    def blank_inputs(
        cls, config: Any, vae_config: Any, text_configs: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor, Condition]:
        noisy = torch.empty(1, cls.latent_channels(vae_config), SIDE, SIDE)
        return noisy, torch.empty(1), cls.blank_condition(config, text_configs)

    @classmethod
    def blank_condition(cls, config: Any, text_configs: Mapping[str, Any]) -> Condition:
        """A condition for one item, with shapes and no numbers: the tokens of the first text
        encoder and, where the pipeline gives one, their mask."""
        width = text_width(text_configs)
        mask = {MASK: torch.empty(1, 2, dtype=torch.bool)} if MASK in cls.prompt_outputs else {}
        return {"tokens_NLD": torch.empty(1, 2, width), **mask}


def text_width(text_configs: Mapping[str, Any]) -> int:
    """The channels of a token that the first text encoder gives."""
    width: int = text_configs["text_encoder"].get_text_config().hidden_size
    return width


def flagged(index: Mapping[str, Any]) -> str:
    """Why a pipeline is distilled, where its index says so."""
    return "is_distilled in its model_index.json" if index.get("is_distilled") else ""


def check_channels(taken: int, given: int) -> None:
    """Raises UserError where a network takes other channels than its latents have."""
    if taken != given:
        raise UserError(f"the transformer takes {taken} channels, the autoencoder gives {given}")
