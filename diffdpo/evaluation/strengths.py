"""Bradley–Terry strengths of policies, with intervals that know of prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from diffdpo.errors import UserError
from diffdpo.ranking import fit_bradley_terry

# Nats. Only where one policy wins against all others in all pictures, which has no finite strength.
PRIOR = 2.0
Z = 1.959964


def strengths(
    items: Sequence[str], duels: Mapping[tuple[str, str], np.ndarray], clusters: Sequence[Any]
) -> dict[str, Any]:
    """The strength of each item in nats, mean zero, with 95 % intervals.

    ``duels``: for two items the share (N,) of the win that the first has in each game, NaN where it
    was not played. The games of a cluster are not independent: the covariance is H⁻¹ (Σ u uᵀ)
    H⁻¹, with one score u a cluster (Liang & Zeger 1986).
    """
    number = {item: place for place, item in enumerate(items)}
    pairs, weights = [], []
    for (one, other), share in duels.items():
        played = share[~np.isnan(share)]
        for names, wins in (((one, other), played), ((other, one), 1 - played)):
            if wins.sum() > 0:
                pairs.append(names)
                weights.append(float(wins.sum()))
    prior = None
    try:
        fit = fit_bradley_terry(pairs, weight=weights)
    except UserError:  # somebody always wins
        prior = PRIOR
        fit = fit_bradley_terry(pairs, weight=weights, prior_std=PRIOR)
    theta = np.array([fit.strength[fit.items.index(item)] for item in items])
    error = clustered_errors(theta, duels, clusters, number, prior)
    rows = [
        {"item": item, "strength": float(value), "interval": [float(value - w), float(value + w)]}
        for item, value, w in zip(items, theta, Z * error, strict=True)
    ]
    return {"items": sorted(rows, key=lambda row: -row["strength"]), "prior_std": prior}


def clustered_errors(
    theta: np.ndarray,
    duels: Mapping[tuple[str, str], np.ndarray],
    clusters: Sequence[Any],
    number: Mapping[str, int],
    prior: float | None,
) -> np.ndarray:
    """(n,): the standard error of each strength under Σθ = 0."""
    names, group = np.unique([str(name) for name in clusters], return_inverse=True)
    size = len(theta)
    score_Gn, information = np.zeros((len(names), size)), np.zeros((size, size))
    for (one, other), share in duels.items():
        i, j = number[one], number[other]
        played = ~np.isnan(share)
        expected = 1 / (1 + np.exp(theta[j] - theta[i]))
        rest = np.where(played, share - expected, 0.0)
        total_G = np.bincount(group, weights=rest, minlength=len(names))
        score_Gn[:, i] += total_G
        score_Gn[:, j] -= total_G
        weight = expected * (1 - expected) * played.sum()
        information[np.ix_([i, j], [i, j])] += weight * np.array([[1.0, -1.0], [-1.0, 1.0]])
    if prior is not None:
        information += np.eye(size) / prior**2
    # Strengths are known up to a constant; the inverse on the rest is that of mean zero.
    inverse = np.linalg.pinv(information, hermitian=True)
    few = len(names) / max(len(names) - 1, 1)
    covariance = few * inverse @ (score_Gn.T @ score_Gn) @ inverse
    return np.sqrt(np.maximum(np.diag(covariance), 0))


def all_duels(labels: Sequence[str], wins: Any) -> dict[tuple[str, str], np.ndarray]:
    """The games of every two; ``wins(one, other)`` gives the shares of the first."""
    return {(one, other): wins(one, other) for one, other in combinations(labels, 2)}
