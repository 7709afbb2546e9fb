"""From the items of some pairs to a batch with all that is random about it; for data workers.

Every number is a function of (seed, pair, visit) and of the settings. Nothing here knows a network,
so that a process of its own can be given what it needs. Shapes: ``B`` pairs, ``N = 2B`` items,
winners first; ``D = B·M`` draws, those of a pair next to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffdpo.draws import Purpose, generator
from diffdpo.engine.transfer import Batch
from diffdpo.image.backbones.conditions import Condition
from diffdpo.image.pictures.pixels import CroppedImage, EncodedImage, PixelImage
from diffdpo.image.process.noise import stack_normal
from diffdpo.image.process.start_noise import own_noise
from diffdpo.image.reading.pairs import PairItem
from diffdpo.image.scoring.errors import cell_weights

Shape = tuple[int, ...]
Timestep = Callable[[np.random.Generator], float]


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


@dataclass(frozen=True)
class ImageBatch(Batch):
    """``B`` collated pairs, winners first, and the numbers that were drawn for them."""

    pairs: list[int]
    prompts: list[str]  # some of them emptied
    images: list[CroppedImage]  # their sizes and crops alone
    byte_NCHW: Tensor | None  # None where latents are stored
    posterior_noise: Tensor | None  # (N, *latents), beside the pixels
    latents: Tensor | None  # a sample of each stored posterior
    condition: Condition | None  # of the prompts, where it is stored: B rows
    timestep_D: Tensor  # the same for both sides of a pair, as the noise is
    noise_D: Tensor | None  # (D, *latents), to predict
    fed_noise_D: Tensor | None  # what the network is given; None: the same
    own_noise_N: Tensor | None  # (N, *latents), where every picture has its own
    outcome_B: Tensor | None
    reference_N: Tensor | None
    gap_B: Tensor | None = None
    cells_NHW: Tensor | None = None  # weights of the cells of the latent grid, from masks


@dataclass(frozen=True)
class Collation:
    """Collates pairs. ``latent_shape`` is that of one item's latents, ``timestep`` that of a
    forward process, and ``embed`` reads the embeddings of prompts where they are stored."""

    settings: DrawSettings
    latent_shape: Shape
    timestep: Timestep
    embed: Callable[[Sequence[str]], Condition] | None = None

    def __call__(self, items: list[PairItem]) -> ImageBatch:
        images = [item.chosen for item in items] + [item.rejected for item in items]
        outcomes = [item.outcome for item in items]
        stored = [item.reference[side] for side in (0, 1) for item in items if item.reference]
        beside = [item.beside for item in items]
        masks = [b.masks[side] for side in (0, 1) for b in beside if b.masks]
        gaps = [b.gap for b in beside if b.gap is not None]
        prompts = [self.kept(item) for item in items]
        noise, fed_noise, own = self.noise(items)
        encoded = isinstance(images[0], EncodedImage)
        return ImageBatch(
            pairs=[item.pair for item in items],
            prompts=prompts,
            images=[CroppedImage(one.original_size, one.crop_top_left) for one in images],
            byte_NCHW=stack([one.byte_CHW for one in images if isinstance(one, PixelImage)]),
            posterior_noise=None if encoded else self.posterior_noise(items),
            latents=self.sampled(items, images) if encoded else None,
            condition=self.embed(prompts) if self.embed else None,
            timestep_D=torch.tensor(
                [self.timestep(self.random(Purpose.TIMESTEP, *key)) for key in self.keys(items)]
            ),
            noise_D=noise,
            fed_noise_D=fed_noise,
            own_noise_N=own,
            outcome_B=torch.tensor(outcomes) if min(outcomes) < 1 else None,
            reference_N=torch.tensor(stored) if stored else None,
            gap_B=torch.tensor(gaps) if gaps else None,
            cells_NHW=cell_weights(masks, self.latent_shape[-2:]) if masks else None,
        )

    def keys(self, items: Sequence[PairItem]) -> list[tuple[int, int]]:
        """The pair and the number of each draw."""
        # Visit v has the draws v·M to v·M + M − 1, so that no two visits share one.
        draws = self.settings.draws
        return [(item.pair, item.visit * draws + m) for item in items for m in range(draws)]

    def noise(
        self, items: Sequence[PairItem]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The noise to predict and the noise that is fed to the network, which differ under input
        perturbation only (Ning et al. 2023); or, in place of both, every picture's own."""
        seeds = [b.seeds[side] for side in (0, 1) for b in (i.beside for i in items) if b.seeds]
        if seeds:
            return (
                None,
                None,
                own_noise(seeds, 2 * [item.flip for item in items], self.latent_shape),
            )
        # In this order from one generator: an option leaves the numbers drawn before it unchanged.
        generators = [self.random(Purpose.NOISE, *key) for key in self.keys(items)]
        noise = stack_normal(generators, self.latent_shape)
        if self.settings.noise_offset:
            each = (self.latent_shape[0], *(1 for _ in self.latent_shape[1:]))
            noise = noise + self.settings.noise_offset * stack_normal(generators, each)
        if not self.settings.input_perturbation:
            return noise, None, None
        moved = self.settings.input_perturbation * stack_normal(generators, self.latent_shape)
        return noise, noise + moved, None

    def posterior_noise(self, items: Sequence[PairItem]) -> Tensor:
        """The noise of a sample of every item's posterior. It serves all draws of a visit."""
        sides = (Purpose.POSTERIOR_CHOSEN, Purpose.POSTERIOR_REJECTED)
        keys = [(side, item.pair, item.visit) for side in sides for item in items]
        return stack_normal([self.random(*key) for key in keys], self.latent_shape)

    def sampled(self, items: Sequence[PairItem], images: Sequence[CroppedImage]) -> Tensor:
        """A sample of the stored posteriors of these images."""
        encoded = [image for image in images if isinstance(image, EncodedImage)]
        mean = torch.stack([image.mean_CHW for image in encoded])
        std = torch.stack([image.std_CHW for image in encoded])
        return mean + std * self.posterior_noise(items)

    def kept(self, item: PairItem) -> str:
        """The prompt, or the empty one: some are emptied, for both sides, so that classifier-free
        guidance keeps working."""
        share = self.settings.empty_prompts
        random = self.random(Purpose.PROMPT_DROPOUT, item.pair, item.visit)
        return "" if share and random.random() < share else item.prompt

    def random(self, purpose: Purpose, pair: int, draw: int) -> np.random.Generator:
        """The generator of one use, under the run's seed."""
        return generator(self.settings.seed, purpose, pair, draw)


def stack(images: list[Tensor]) -> Tensor | None:
    """The images in one tensor; None where there are none."""
    return torch.stack(images) if images else None
