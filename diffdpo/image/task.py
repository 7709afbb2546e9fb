"""Image pairs as a task of the engine: the score is minus half the mean squared error.

Both images of a pair share timestep and noise. Shapes: ``B`` pairs, ``N = 2B`` items, winners
first; with M draws a pair the network sees ``N·M`` rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from diffdpo.draws import Purpose, generator
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.backbones.conditions import Condition
from diffdpo.image.backbones.offload import blocks_of
from diffdpo.image.errors import cell_weights, products, weighed
from diffdpo.image.noise import Process, stack_normal
from diffdpo.image.pairs import PairItem
from diffdpo.image.pixels import CroppedImage, EncodedImage, PixelImage
from diffdpo.image.start_noise import own_noise
from diffdpo.losses.means import Metrics
from diffdpo.objective import Scores, StepContext


@dataclass(frozen=True)
class ImageBatch:
    """``B`` collated pairs, winners first; draws are functions of ``pairs`` and ``visits``."""

    pairs: list[int]
    visits: list[int]
    prompts: list[str]
    images: list[CroppedImage]
    pixels_NCHW: Tensor | None  # None where latents are stored
    posterior_NCHW: tuple[Tensor, Tensor] | None  # means and standard deviations, where stored
    outcome_B: Tensor | None
    reference_N: Tensor | None
    gap_B: Tensor | None = None
    seeds: list[int] | None = None  # of every image, where its noise is given
    flips: list[bool] = field(default_factory=list)
    masks: list[Tensor] | None = None


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


@dataclass(frozen=True)
class DrawSettings:
    """What draws depend on, besides the pairs."""

    seed: int
    resolution: int
    draws: int = 1  # M of them are averaged inside the log-sigmoid
    empty_prompts: float = 0.0
    noise_offset: float = 0.0
    input_perturbation: float = 0.0
    vae_chunk: int = 8


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
    ) -> None:
        """``encode_prompts`` takes the place of the backbone's own, where embeddings are stored."""
        self.encode_prompts = encode_prompts or backbone.encode_prompts
        self.backbone, self.process, self.settings = backbone, process, settings
        self.device, self.autocast = device, autocast

    def collate(self, items: list[PairItem]) -> ImageBatch:
        """A batch of pairs, winners first."""
        images = [item.chosen for item in items] + [item.rejected for item in items]
        outcomes = [item.outcome for item in items]
        stored = [item.reference[side] for side in (0, 1) for item in items if item.reference]
        beside = [item.beside for item in items]
        seeds = [b.seeds[side] for side in (0, 1) for b in beside if b.seeds]
        masks = [b.masks[side] for side in (0, 1) for b in beside if b.masks]
        gaps = [b.gap for b in beside if b.gap is not None]
        return ImageBatch(
            pairs=[item.pair for item in items],
            visits=[item.visit for item in items],
            prompts=[item.prompt for item in items],
            images=images,
            pixels_NCHW=stack(
                [image.pixels_CHW for image in images if isinstance(image, PixelImage)]
            ),
            posterior_NCHW=stack_posteriors(
                [image for image in images if isinstance(image, EncodedImage)]
            ),
            outcome_B=torch.tensor(outcomes) if min(outcomes) < 1 else None,
            reference_N=torch.tensor(stored) if stored else None,
            gap_B=torch.tensor(gaps) if gaps else None,
            seeds=seeds or None,
            flips=2 * [item.flip for item in items],
            masks=masks or None,
        )

    def draw(self, batch: ImageBatch) -> ImageDraw:
        """Noisy latents, targets and conditions, once for policy and reference.

        Everything random and everything frozen happens here.
        """
        # One sample of the posterior serves all draws of a visit.
        latents = self.repeat(self.latents(batch))
        visits = zip(batch.pairs, batch.visits, strict=True)
        # Visit v has the draws v·M to v·M + M − 1, so that no two visits share one.
        draws = self.settings.draws
        keys = [(pair, visit * draws + m) for pair, visit in visits for m in range(draws)]
        timestep = torch.tensor(
            [self.process.timestep(self.random(Purpose.TIMESTEP, *key)) for key in keys]
        )
        if batch.seeds is None:
            noise, fed_noise = self.noise(keys, tuple(latents.shape[1:]))
            # Winner and loser meet the same timestep and noise (Wallace et al. 2023, supplement).
            noise, fed_noise = (torch.cat([x, x]).to(self.device) for x in (noise, fed_noise))
        else:
            noise = own_noise(batch.seeds, batch.flips, tuple(latents.shape[1:]))
            noise = fed_noise = self.repeat(noise.to(self.device))
        timestep = torch.cat([timestep, timestep]).to(self.device)
        return ImageDraw(
            noisy=self.process.corrupt(latents, fed_noise, timestep),
            timestep_N=timestep,
            target=self.process.target(latents, noise, timestep),
            weight_N=self.process.weight(timestep),
            condition=self.condition(batch),
            draws=self.settings.draws,
            outcome_B=None if batch.outcome_B is None else batch.outcome_B.to(self.device),
            reference_N=None if batch.reference_N is None else batch.reference_N.to(self.device),
            gap_B=None if batch.gap_B is None else batch.gap_B.to(self.device),
            cells_NHW=self.cells(batch, latents.shape),
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
        if batch.posterior_NCHW is not None:
            mean_NCHW, std_NCHW = batch.posterior_NCHW
        else:
            assert batch.pixels_NCHW is not None, "a batch has pixels or latents"
            mean_NCHW, std_NCHW = self.backbone.encode_images(
                batch.pixels_NCHW, self.settings.vae_chunk
            )
        keys = [(side, *key) for side in (Purpose.POSTERIOR_CHOSEN, Purpose.POSTERIOR_REJECTED)
                for key in zip(batch.pairs, batch.visits, strict=True)]  # fmt: skip
        noise = stack_normal([self.random(*key) for key in keys], tuple(mean_NCHW.shape[1:]))
        return self.backbone.normalise(mean_NCHW + std_NCHW * noise.to(mean_NCHW.device)).to(
            self.device
        )

    def noise(self, keys: list[tuple[int, int]], shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """The noise to predict, and the noise that is fed to the network.

        They differ under input perturbation only (Ning et al. 2023).
        """
        # In this order from one generator: an option leaves the numbers drawn before it unchanged.
        generators = [self.random(Purpose.NOISE, *key) for key in keys]
        noise = stack_normal(generators, shape)
        if self.settings.noise_offset:
            each = (shape[0], *(1 for _ in shape[1:]))
            noise = noise + self.settings.noise_offset * stack_normal(generators, each)
        if not self.settings.input_perturbation:
            return noise, noise
        return noise, noise + self.settings.input_perturbation * stack_normal(generators, shape)

    def cells(self, batch: ImageBatch, shape: torch.Size) -> Tensor | None:
        """The weights of the cells of latents of this ``shape``; None without masks."""
        if batch.masks is None:
            return None
        return self.repeat(cell_weights(batch.masks, tuple(shape[-2:])).to(self.device))

    def condition(self, batch: ImageBatch) -> Condition:
        """Prompt embeddings, the same for both sides of a pair, and the size condition of each."""
        # Some prompts are emptied, for both sides, so that classifier-free guidance keeps working.
        share = self.settings.empty_prompts
        kept = [
            (
                ""
                if share and self.random(Purpose.PROMPT_DROPOUT, pair, visit).random() < share
                else prompt
            )
            for pair, visit, prompt in zip(batch.pairs, batch.visits, batch.prompts, strict=True)
        ]
        prompts = self.encode_prompts(kept)
        sizes = self.backbone.size_condition(batch.images, self.settings.resolution)
        both = {name: torch.cat([value, value]) for name, value in prompts.items()}
        return {
            name: self.repeat(value.to(self.device)) for name, value in {**both, **sizes}.items()
        }

    def repeat(self, x: Tensor) -> Tensor:
        """Each row once for every draw."""
        return x.repeat_interleave(self.settings.draws, dim=0) if self.settings.draws > 1 else x

    def random(self, purpose: Purpose, pair: int, draw: int) -> np.random.Generator:
        """The generator of one use, under the run's seed."""
        return generator(self.settings.seed, purpose, pair, draw)


def stack(images: list[Tensor]) -> Tensor | None:
    """The images in one tensor; None where there are none."""
    return torch.stack(images) if images else None


def stack_posteriors(images: list[EncodedImage]) -> tuple[Tensor, Tensor] | None:
    """Means and standard deviations, a tensor each; None where there are no images."""
    if not images:
        return None
    return torch.stack([image.mean_CHW for image in images]), torch.stack(
        [image.std_CHW for image in images]
    )


def errors(who: str, score_N: Tensor) -> dict[str, Tensor]:
    """The mean squared errors of which ``score_N`` is minus one half."""
    chosen, rejected = (-2 * score_N).chunk(2)
    return {f"error/{who}_chosen": chosen.mean(), f"error/{who}_rejected": rejected.mean()}
