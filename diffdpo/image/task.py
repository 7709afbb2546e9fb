"""Image pairs as a task of the engine: the score is minus half the mean squared error.

Both images of a pair share timestep and noise. Shapes: ``B`` pairs, ``N = 2B`` items, winners
first; with M draws a pair the network sees ``N·M`` rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffdpo.engine.transfer import on_device
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.backbones.conditions import Condition
from diffdpo.image.backbones.offload import blocks_of
from diffdpo.image.process.noise import Process
from diffdpo.image.scoring.collation import Collation, DrawSettings, ImageBatch
from diffdpo.image.scoring.errors import products, weighed
from diffdpo.losses.means import Metrics
from diffdpo.objective.scores import Scores, StepContext


@dataclass(frozen=True)
class ImageDraw:
    """Inputs and targets of one forward pass.

    Rows are items × draws, with the draws of an item next to each other.
    """

    noisy: Tensor
    timestep_N: Tensor
    target: Tensor
    weight_N: Tensor | None  # of each row's error; None where all are 1
    condition: Condition
    draws: int
    outcome_B: Tensor | None
    reference_N: Tensor | None
    gap_B: Tensor | None = None
    cells_NHW: Tensor | None = None  # weights of the cells of the latent grid, 1 in the mean
    desirable_N: None = None  # pictures come in pairs
    size_N: float = 1.0


class ImageTask:
    """Scores image pairs by a backbone's network and its forward process."""

    def __init__(
        self,
        backbone: Backbone,
        process: Process,
        settings: DrawSettings,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager],
        encode_prompts: Callable[[Sequence[str]], Condition] | None = None,
        embed: Callable[[Sequence[str]], Condition] | None = None,
    ) -> None:
        """``encode_prompts`` takes the place of the backbone's own; with ``embed``, which needs no
        network, the data workers read stored embeddings instead."""
        self.encode_prompts = encode_prompts or backbone.encode_prompts
        self.backbone, self.process, self.settings = backbone, process, settings
        self.device, self.autocast = device, autocast
        shape = backbone.latent_shape(settings.resolution)
        # Without the backbone: it is sent to the data workers.
        self.collate = Collation(settings, tuple(shape), process.timestep, embed)

    def draw(self, batch: ImageBatch) -> ImageDraw:
        """Noisy latents, targets and conditions, once for policy and reference.

        All numbers that are random come with the batch; everything frozen happens here.
        """
        batch = on_device(batch, self.device)
        latents = self.repeat(self.latents(batch))
        # Winner and loser meet the same timestep and noise (Wallace et al. 2023, supplement).
        timestep = twice(batch.timestep_D)
        if batch.noise_D is not None:
            noise = twice(batch.noise_D)
            fed_noise = noise if batch.fed_noise_D is None else twice(batch.fed_noise_D)
        else:
            assert batch.own_noise_N is not None, "a batch has noise"
            noise = fed_noise = self.repeat(batch.own_noise_N)
        return ImageDraw(
            noisy=self.process.corrupt(latents, fed_noise, timestep),
            timestep_N=timestep,
            target=self.process.target(latents, noise, timestep),
            weight_N=self.process.weight(timestep),
            condition=self.condition(batch),
            draws=self.settings.draws,
            outcome_B=batch.outcome_B,
            reference_N=batch.reference_N,
            gap_B=batch.gap_B,
            cells_NHW=None if batch.cells_NHW is None else self.repeat(batch.cells_NHW),
        )

    def score(self, model: nn.Module, draw: ImageDraw) -> Scores:
        """−½ · weight of t · mean over latent dimensions of (prediction − target)², float32,
        averaged over an item's draws: ``(N,)``. A mask weighs the mean.

        Eq. 14 and supplement eq. 46 of Wallace et al. 2023 with the scale of their code; this is
        the one place where the ½ and the sign stand.
        """
        with self.autocast():
            prediction = self.backbone.predict(model, draw.noisy, draw.timestep_N, draw.condition)
        # In float32: the margin is a small difference of such errors.
        residual = prediction.float() - draw.target.float()
        error, pull = weighed(residual, draw.cells_NHW)
        error_N = error.mean(dim=tuple(range(1, error.dim())))
        if draw.weight_N is not None:
            error_N = error_N * draw.weight_N
        score_N = -0.5 * error_N.view(-1, draw.draws).mean(dim=1)
        return Scores(score_N, residuals=products(pull, draw.weight_N, draw.draws))

    def metrics(
        self, policy: Scores, frozen_N: Tensor | float, draw: ImageDraw, context: StepContext
    ) -> Metrics:
        """The mean squared errors of winners and losers, of policy and reference."""
        # Each by itself: a margin can grow while the winner's own error rises, and the loss does
        # not show it.
        metrics = errors("policy", policy.score_N.detach())
        return metrics | (errors("reference", frozen_N) if torch.is_tensor(frozen_N) else {})

    def reference_point_draws(self, batches: Sequence[ImageBatch]) -> Iterator[ImageDraw]:
        """The step's own draws: z is the mean reward of its effective batch (Li et al. 2024)."""
        return (self.draw(batch) for batch in batches)

    def layers(self, model: nn.Module) -> list[nn.Module]:
        """The blocks of the network."""
        return blocks_of(model)

    def token_counts(self, batch: ImageBatch) -> tuple[int, int, int, int]:
        """One token for each picture, so that a mean over tokens is the mean over pictures."""
        pairs = len(batch.pairs)
        return pairs, pairs, 0, pairs

    def latents(self, batch: ImageBatch) -> Tensor:
        """A sample of each item's latent posterior, in the network's scale."""
        if batch.latents is not None:
            return self.backbone.normalise(batch.latents)
        byte_NCHW, noise = batch.byte_NCHW, batch.posterior_noise
        assert byte_NCHW is not None, "a batch has pixels or latents"
        assert noise is not None, "pixels come with the noise of their posterior"
        mean, std = self.backbone.encode_images(byte_NCHW, self.settings.vae_chunk)
        assert mean.shape == noise.shape, "the autoencoder gives the shape that was drawn"
        return self.backbone.normalise(mean + std * noise)

    def condition(self, batch: ImageBatch) -> Condition:
        """Prompt embeddings, the same for both sides of a pair, and the size condition of each."""
        prompts = batch.condition
        if prompts is None:
            prompts = on_device(self.encode_prompts(batch.prompts), self.device)
        sizes = self.backbone.size_condition(batch.images, self.settings.resolution)
        every = {name: twice(value) for name, value in prompts.items()}
        every |= on_device(sizes, self.device)
        return {name: self.repeat(value) for name, value in every.items()}

    def repeat(self, x: Tensor) -> Tensor:
        """Each row once for every draw."""
        return x.repeat_interleave(self.settings.draws, dim=0) if self.settings.draws > 1 else x


def twice(x: Tensor) -> Tensor:
    """The rows of pairs for the winners, and again for the losers."""
    return torch.cat([x, x])


def errors(who: str, score_N: Tensor) -> dict[str, Tensor]:
    """The mean squared errors of which ``score_N`` is minus one half."""
    chosen, rejected = (-2 * score_N).chunk(2)
    return {f"error/{who}_chosen": chosen.mean(), f"error/{who}_rejected": rejected.mean()}
