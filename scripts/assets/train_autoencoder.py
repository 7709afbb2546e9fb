"""Trains the bundled autoencoder: 64 px pictures to 16×16×4 latents of mean 0 and deviation 1, and
back.

    python scripts/assets/train_autoencoder.py --minutes 16

Reads the picture set of ``build_emoji.py``; writes ``runs/assets/autoencoder``, goes on from it
when run again, and prints the signal-to-noise ratio on captions it never saw.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from common import (
    WORK,
    Ema,
    as_pixels,
    clock,
    cosine_rate,
    load_emoji,
    parser_of,
    quiet_start,
    sheet,
)
from diffusers import AutoencoderKL
from torch import Tensor, nn

TARGET = WORK / "autoencoder"
BATCH, RATE, KL_WEIGHT = 16, 2e-3, 1e-5


def make() -> Any:
    """A new autoencoder: 0.92 M parameters, no attention."""
    return AutoencoderKL(
        block_out_channels=(32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=64,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def opponent(pixels_NCHW: Tensor) -> Tensor:
    """Two channels of hue: red against green, yellow against blue."""
    red, green, blue = pixels_NCHW.unbind(1)
    return torch.stack([red - green, (red + green) / 2 - blue], 1)


def reconstruction(decoded: Tensor, pixels: Tensor) -> Tensor:
    """The loss of a reconstruction: differences in values, edges, hues and coarse colour."""
    error = decoded - pixels
    # With values and edges alone the hues drift.
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    values = error.abs().mean() + 2 * error.square().mean()
    return values + edges + opponent(error).abs().mean() + F.avg_pool2d(error, 4).abs().mean()


def train(autoencoder: Any, pixels: Tensor, minutes: float) -> None:
    """Train for so many minutes; leaves the running mean of the weights in the network."""
    optimizer = torch.optim.AdamW(
        autoencoder.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=1e-3, fused=True
    )
    mean = Ema([autoencoder], 0.998)
    for step, progress, bar in clock(minutes, "autoencoder"):
        for group in optimizer.param_groups:
            group["lr"] = RATE * cosine_rate(progress, step, 100)
        batch = as_pixels(pixels[torch.randint(len(pixels), (BATCH,))]).contiguous(
            memory_format=torch.channels_last
        )
        posterior = autoencoder.encode(batch).latent_dist
        decoded = autoencoder.decode(
            posterior.mean + posterior.std * torch.randn_like(posterior.std)
        ).sample
        loss = reconstruction(decoded, batch) + KL_WEIGHT * posterior.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
        optimizer.step()
        mean.update(step)
        if step % 100 == 99:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    mean.swap()


@torch.no_grad()
def normalise(autoencoder: Any, pixels: Tensor) -> None:
    """Bring the latents to mean 0 and deviation 1 by changing the 1×1 convolutions round them."""
    # In the weights rather than in scaling_factor, which could not hold a value for each channel.
    latents = torch.cat(
        [autoencoder.encode(as_pixels(chunk)).latent_dist.mean for chunk in pixels.split(64)]
    )
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    into, out = autoencoder.quant_conv, autoencoder.post_quant_conv
    into.weight[:4] /= std[:, None, None, None]
    into.bias[:4] = (into.bias[:4] - mean) / std
    into.bias[4:] -= 2 * std.log()  # the second half of the channels is the log-variance
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= std[None, :, None, None]


@torch.no_grad()
def test(autoencoder: Any, pixels: Tensor) -> float:
    """Peak signal-to-noise ratio in dB on unseen captions; writes a sheet of originals and
    copies."""
    original = as_pixels(pixels)
    decoded = autoencoder.decode(autoencoder.encode(original).latent_dist.mean).sample.clamp(-1, 1)
    both = torch.stack([original[:32], decoded[:32]], 1).flatten(0, 1)
    sheet(
        ((both + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy(),
        16,
        WORK / "autoencoder.png",
    )
    return (-10 * ((decoded - original) / 2).square().mean((1, 2, 3)).log10()).mean().item()


def main() -> None:
    """Train, normalise, test, save."""
    parser = parser_of(__doc__)
    parser.add_argument("--minutes", type=float, default=16)
    settings = parser.parse_args()
    quiet_start()
    emoji = load_emoji(WORK / "emoji")
    autoencoder = AutoencoderKL.from_pretrained(TARGET) if TARGET.exists() else make()
    autoencoder = autoencoder.to(memory_format=torch.channels_last)
    pixels = emoji.tensor(emoji.rows(["train", "validation", "test", "spare"])).flatten(0, 1)
    train(autoencoder, pixels, settings.minutes)
    normalise(autoencoder, emoji.tensor(emoji.rows(["train", "validation", "test"])).flatten(0, 1))
    unseen = emoji.tensor(emoji.rows(["held_out"])).flatten(0, 1)[:200]
    print(f"{test(autoencoder, unseen):.1f} dB on {len(unseen)} pictures of unseen captions")
    autoencoder.save_pretrained(TARGET)


if __name__ == "__main__":
    main()
