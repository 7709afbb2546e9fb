"""Trains the bundled flow model from scratch: a small Stable Diffusion 3 as a rectified flow.

    python scripts/assets/train_flow_pipeline.py --minutes 84

Reads the picture set, the pairs (for their captions) and assets/emoji-pipeline, whose autoencoder
it takes as it is and whose text encoder is where both of its own begin. Every few minutes it writes
a sheet of the 24 prompts, the pipeline in float16 and its own state into ``runs/assets``, at the
end the pipeline into assets/emoji-flow. ``--resume`` goes on from that state.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import (
    ASSETS,
    PIPELINE,
    WORK,
    Ema,
    batches,
    cached_latents,
    clock,
    cosine_rate,
    parser_of,
    quiet_start,
    show,
    stratified,
    trained_pictures,
)
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from diffusers.utils import logging
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

FLOW = ASSETS / "emoji-flow"
STATE = WORK / "emoji-flow-state.pt"
BATCH, RATE, EMPTY_PROMPTS = 32, 2e-3, 0.1
WIDTH, HEADS, LAYERS, PATCH = 160, 5, 5, 2
TIME_MEAN = 0.5  # of the normal behind t: what is drawn is decided near t = 1
SHOW_EVERY = 600  # seconds
T5_ROWS = 256  # what the pipeline takes where it is not told another number
FEW_ROWS = {"max_sequence_length": 8}
NO_WORDS = ("<pad>", "</s>", "<unk>")


def make_pipeline() -> Any:
    """A pipeline with a new transformer (4.5 M parameters), without a T5 that reads anything."""
    tokenizer = CLIPTokenizer.from_pretrained(PIPELINE / "tokenizer")
    encoders: list[Any] = [make_text_encoder(), make_text_encoder()]
    text_width = sum(encoder.config.hidden_size for encoder in encoders)
    transformer: Any = SD3Transformer2DModel(
        sample_size=16,
        patch_size=PATCH,
        in_channels=4,
        out_channels=4,
        num_layers=LAYERS,
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS,
        caption_projection_dim=WIDTH,
        joint_attention_dim=text_width,
        pooled_projection_dim=text_width,
        pos_embed_max_size=16 // PATCH,
        qk_norm="rms_norm",
    )
    start_as_identity(transformer)
    # The pipeline subtracts a shift without asking whether there is one.
    vae: Any = AutoencoderKL.from_pretrained(PIPELINE / "vae", shift_factor=0.0)
    pipeline: Any = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae.eval().requires_grad_(False),
        text_encoder=encoders[0],
        tokenizer=tokenizer,
        text_encoder_2=encoders[1],
        tokenizer_2=tokenizer,
        text_encoder_3=no_text_encoder(text_width),
        tokenizer_3=no_tokenizer(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def make_text_encoder() -> Any:
    """The bundled text encoder, with a projection that passes on what it is given."""
    trained: Any = CLIPTextModel.from_pretrained(PIPELINE / "text_encoder")
    encoder: Any = CLIPTextModelWithProjection(trained.config)
    missing = encoder.load_state_dict(
        {f"text_model.{name}": value for name, value in trained.state_dict().items()}, strict=False
    ).missing_keys
    if missing != ["text_projection.weight"]:
        raise SystemExit(f"the bundled text encoder lacks {missing}")
    nn.init.eye_(encoder.text_projection.weight)
    return encoder


def no_text_encoder(width: int) -> Any:
    """In place of T5, which plain loading of such a pipeline asks for: it has no layers, and writes
    the zeros that the pipeline puts where it is told that there is none."""
    shape: Any = {"vocab_size": len(NO_WORDS), "num_layers": 0}
    shape |= {"num_heads": 1, "d_kv": 1, "d_ff": 1}
    encoder: Any = T5EncoderModel(T5Config(d_model=width, **shape)).requires_grad_(False)
    nn.init.zeros_(encoder.encoder.final_layer_norm.weight)
    return encoder.eval()


def no_tokenizer() -> Any:
    """A tokenizer for it, which knows no word."""
    return T5Tokenizer(vocab=[(piece, 0.0) for piece in NO_WORDS], extra_ids=0)


@torch.no_grad()
def start_as_identity(transformer: Any) -> None:
    """Begin with blocks that change nothing and an output of zero (DiT, 2212.09748, 3.2)."""
    for name, module in transformer.named_modules():
        modulation = name.endswith((".norm1.linear", ".norm1_context.linear"))
        if modulation or name in ("norm_out.linear", "proj_out"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)


class ManyRows(TorchFunctionMode):
    """Attention in which the last row of every text counts as several equal ones.

    The rows of T5, 256 unless the pipeline is told otherwise, are zeros here. They stay equal in
    every block, so one of them with the logarithm of their number added to its attention gives the
    same pictures, in a quarter of the time.
    """

    def __init__(self, rows_B: Tensor) -> None:
        super().__init__()
        self.bias_B111 = rows_B.log()[:, None, None, None]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            length = args[1].shape[2]
            kwargs["attn_mask"] = F.pad(self.bias_B111, (length - 1, 0))
        return func(*args, **kwargs)


def encode(pipeline: Any, captions: list[str], t5_rows: int = 1) -> tuple[Tensor, Tensor]:
    """What the pipeline makes of captions: (captions, rows, width) and pooled (captions, width)."""
    rows_BLD, _, pooled_BD, _ = pipeline.encode_prompt(
        captions, None, None, do_classifier_free_guidance=False, max_sequence_length=t5_rows
    )
    return rows_BLD, pooled_BD


def velocity(pipeline: Any, noisy: Tensor, time_B: Tensor, captions: list[str]) -> Tensor:
    """The prediction for pictures of these captions, each with a random number of T5 rows: the
    pipeline's pictures then do not depend on its ``max_sequence_length``."""
    rows_BLD, pooled_BD = encode(pipeline, captions)
    with ManyRows(T5_ROWS ** torch.rand(len(captions))):
        return pipeline.transformer(noisy, rows_BLD, pooled_BD, 1000 * time_B).sample


def flow_loss(pipeline: Any, clean: Tensor, captions: list[str]) -> Tensor:
    """Squared error of the velocity noise − clean on the straight line between them, at times of
    the logit-normal density (SD3, 2403.03206, section 3.1)."""
    noise = torch.randn_like(clean)
    normal_B = torch.special.ndtri(stratified(len(clean)).clamp(1e-4, 1 - 1e-4))
    time_B = (TIME_MEAN + normal_B).sigmoid()
    mix = time_B[:, None, None, None]
    predicted = velocity(pipeline, (1 - mix) * clean + mix * noise, time_B, captions)
    return F.mse_loss(predicted, noise - clean)


class Training:
    """Networks, optimizer and running mean, which can be written to a file and read again."""

    def __init__(self, pipeline: Any) -> None:
        self.networks = [pipeline.transformer, pipeline.text_encoder, pipeline.text_encoder_2]
        self.weights = [p for network in self.networks for p in network.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.weights, lr=RATE, betas=(0.9, 0.99), weight_decay=1e-3, fused=True
        )
        self.mean = Ema(self.networks, 0.999)
        self.steps, self.used = 0, 0.0

    def step(self, loss: Tensor, progress: float) -> None:
        """Descend once; ``progress`` is the share of the time that is used."""
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * cosine_rate(progress, self.steps, 200)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.mean.update(self.steps)
        self.steps, self.used = self.steps + 1, progress

    def save(self, path: Path) -> None:
        """Write everything that going on needs."""
        state = {
            "networks": [network.state_dict() for network in self.networks],
            "optimizer": self.optimizer.state_dict(),
            "mean": self.mean.shadow,
            "steps": self.steps,
            "used": self.used,
        }
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def load(self, path: Path) -> None:
        """Take up what ``save`` wrote."""
        state = torch.load(path)
        for network, values in zip(self.networks, state["networks"], strict=True):
            network.load_state_dict(values)
        self.optimizer.load_state_dict(state["optimizer"])
        self.mean.shadow = state["mean"]
        self.steps, self.used = state["steps"], state["used"]


def train(
    pipeline: Any, training: Training, captions: list[str], pixels: Tensor, minutes: float
) -> None:
    """Train transformer and text encoders until the time is up."""
    latents = cached_latents(pipeline.vae, pixels)
    rows, losses, last_shown = batches(len(captions), BATCH), [], time.monotonic()
    for _, progress, bar in clock(minutes, "flow", training.used):
        index = next(rows)
        clean = latents[0][index] + latents[1][index] * torch.randn_like(latents[1][index])
        # Some captions are left out, which is what classifier-free guidance needs.
        left_out = (torch.rand(BATCH) < EMPTY_PROMPTS).tolist()
        words = ["" if out else captions[i] for i, out in zip(index, left_out, strict=True)]
        loss = flow_loss(pipeline, clean, words)
        training.step(loss, progress)
        losses.append(loss.item())
        bar.set_postfix_str(
            f"step {training.steps} loss {np.mean(losses[-250:]):.4f}", refresh=False
        )
        if time.monotonic() - last_shown > SHOW_EVERY:
            training.save(STATE)
            show(pipeline, training.mean, WORK / FLOW.name, f"{training.steps}", **FEW_ROWS)
            last_shown = time.monotonic()
    training.save(STATE)


def main() -> None:
    """Train on the captions of the pairs and the prompts; save."""
    parser = parser_of(__doc__)
    parser.add_argument("--minutes", type=float, default=84)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from the state in runs/assets")
    settings = parser.parse_args()
    quiet_start(settings.threads)
    logging.set_verbosity_error()  # or every step says that one row of T5 is too few
    captions, pixels = trained_pictures()
    pipeline = make_pipeline()
    training = Training(pipeline)
    if settings.resume:
        training.load(STATE)
    train(pipeline, training, captions, pixels, settings.minutes)
    show(pipeline, training.mean, FLOW, "final", **FEW_ROWS)


if __name__ == "__main__":
    main()
