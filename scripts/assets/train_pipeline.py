"""Trains the bundled text-to-image pipeline from scratch: tokenizer, CLIP text encoder and UNet
together.

    python scripts/assets/train_pipeline.py --minutes 46

Reads the picture set, the pairs (for their captions) and ``runs/assets/autoencoder``. Every few
minutes it writes a sheet of the 24 prompts and the whole pipeline, float16, into ``runs/assets``;
at the end into assets/emoji-pipeline. Captions do not name the artist, so both styles stay in the
model: that is what preference training later decides.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import (
    PIPELINE,
    WORK,
    Ema,
    batches,
    cached_latents,
    clock,
    cosine_rate,
    load_emoji,
    parser_of,
    quiet_start,
    show,
    stratified,
    trained_pictures,
)
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

BATCH, RATE, EMPTY_PROMPTS = 48, 1.5e-3, 0.1
LENGTH, WIDTH, VOCABULARY = 12, 96, 1400
SHOW_EVERY = 480  # seconds
CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def make_tokenizer(captions: list[str]) -> CLIPTokenizer:
    """CLIP's byte-level BPE, its merges learnt from the captions."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    words = pre_tokenizers.Split(Regex(CLIP_WORDS), "removed", invert=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    learner.pre_tokenizer = pre_tokenizers.Sequence([words, byte_level])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    settings: dict[str, Any] = {
        "end_of_word_suffix": "</w>",
        "initial_alphabet": alphabet,
        "show_progress": False,
    }
    learner.train_from_iterator(captions, trainers.BpeTrainer(vocab_size=VOCABULARY, **settings))
    learnt = json.loads(learner.to_str())["model"]
    vocabulary = dict(learnt["vocab"])
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    merges: Any = [tuple(merge) for merge in learnt["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)


def make_pipeline(captions: list[str]) -> Any:
    """A pipeline with a new UNet (3.95 M parameters), a new text encoder (0.29 M) and the trained
    autoencoder."""
    tokenizer = make_tokenizer(captions)
    text: Any = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    unet: Any = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=4,
        cross_attention_dim=WIDTH,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )
    vae: Any = AutoencoderKL.from_pretrained(WORK / "autoencoder").eval().requires_grad_(False)
    return assemble(
        vae, CLIPTextModel(text), tokenizer, unet.to(memory_format=torch.channels_last), scheduler
    )


def assemble(vae: Any, text_encoder: Any, tokenizer: Any, unet: Any, scheduler: Any) -> Any:
    """The pipeline of these parts, without a safety checker: it can draw nothing but emoji."""
    pipeline: Any = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tokens(tokenizer: Any, captions: list[str]) -> Tensor:
    """The token ids of captions: (captions, LENGTH)."""
    encoded = tokenizer(
        captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    )
    return encoded.input_ids


def stratified_timesteps() -> Tensor:
    """Timesteps from all over the schedule, one for each picture of a batch."""
    return (stratified(BATCH) * 1000).long().clamp(max=999)


def train(pipeline: Any, ids: Tensor, latents: tuple[Tensor, Tensor], minutes: float) -> Ema:
    """Train UNet and text encoder by v-prediction; returns the running mean of their weights."""
    unet, text_encoder, scheduler = pipeline.unet, pipeline.text_encoder, pipeline.scheduler
    weights = [*unet.parameters(), *text_encoder.parameters()]
    optimizer = torch.optim.AdamW(
        weights, lr=RATE, betas=(0.9, 0.99), weight_decay=1e-3, fused=True
    )
    mean, empty = Ema([unet, text_encoder], 0.999), tokens(pipeline.tokenizer, [""])[0]
    rows, losses, last_shown = batches(len(ids), BATCH), [], time.monotonic()
    for step, progress, bar in clock(minutes, "pipeline"):
        for group in optimizer.param_groups:
            group["lr"] = RATE * cosine_rate(progress, step, 200)
        index = next(rows)
        clean = latents[0][index] + latents[1][index] * torch.randn_like(latents[1][index])
        noise, timestep = torch.randn_like(clean), stratified_timesteps()
        # Some captions are left out, which is what classifier-free guidance needs.
        words = torch.where((torch.rand(BATCH) < EMPTY_PROMPTS)[:, None], empty, ids[index])
        predicted = unet(
            scheduler.add_noise(clean, noise, timestep), timestep, text_encoder(words)[0]
        ).sample
        loss = F.mse_loss(predicted, scheduler.get_velocity(clean, noise, timestep))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        mean.update(step)
        losses.append(loss.item())
        bar.set_postfix_str(f"loss {np.mean(losses[-250:]):.4f}", refresh=False)
        if time.monotonic() - last_shown > SHOW_EVERY:
            show(pipeline, mean, WORK / "pipeline", f"{step + 1}")
            last_shown = time.monotonic()
    return mean


def main() -> None:
    """Train on the captions of the pairs and the prompts; save."""
    parser = parser_of(__doc__)
    parser.add_argument("--minutes", type=float, default=46)
    settings = parser.parse_args()
    quiet_start()
    captions, pixels = trained_pictures()
    pipeline = make_pipeline(load_emoji(WORK / "emoji").captions)
    latents = cached_latents(pipeline.vae, pixels)
    mean = train(pipeline, tokens(pipeline.tokenizer, captions), latents, settings.minutes)
    show(pipeline, mean, PIPELINE, "final")


if __name__ == "__main__":
    main()
