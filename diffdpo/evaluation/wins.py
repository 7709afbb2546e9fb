"""What the pictures of a policy became beside those of its reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffdpo.image.sampling.comparison import Traits
from diffdpo.metrics.diversity import between_seeds
from diffdpo.metrics.intervals import clustered_mean


def best_of(scores: np.ndarray, more: np.ndarray, times: int, count: int) -> np.ndarray:
    """(N,): the highest of the first ``count`` scores of each prompt, once for each of its
    ``times`` pictures; ``scores`` are those of these pictures, ``more`` of further ones."""
    prompts = len(scores) // times
    both_PK = np.concatenate([scores.reshape(prompts, -1), more.reshape(prompts, -1)], axis=1)
    return np.repeat(both_PK[:, :count].max(axis=1), times)


def diversity(
    own: Traits, reference: Traits, prompts: Sequence[str], times: int, seed: int
) -> dict[str, Any] | None:
    """How much pictures of a prompt differ between seeds, by policy and reference; None of one
    picture a prompt."""
    if times < 2:
        return None
    policy_P, reference_P = (
        between_seeds(each.embedding_ND.reshape(len(prompts), times, -1))
        for each in (own, reference)
    )
    return compared(policy_P, reference_P, prompts, seed)


def drift(own: Traits, reference: Traits, clusters: Sequence[str], seed: int) -> dict[str, Any]:
    """What the pictures became that nobody asked for."""
    return {
        "clipped": compared(own.clipped_N, reference.clipped_N, clusters, seed),
        "colourfulness": compared(own.colour_N, reference.colour_N, clusters, seed),
        "distance": clustered_mean(own.distance_N.tolist(), clusters, seed),
    }


def compared(
    own: np.ndarray, reference: np.ndarray, clusters: Sequence[str], seed: int
) -> dict[str, Any]:
    """Both means, and the difference, paired."""
    difference = clustered_mean((own - reference).tolist(), clusters, seed)
    means = {"policy": float(own.mean()), "reference": float(reference.mean())}
    return {**means, "difference": difference}
