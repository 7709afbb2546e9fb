"""Random games for the tests."""

from __future__ import annotations

import numpy as np


def random_games(items: int, games: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """(games, 2): winner and loser, by the model."""
    rng = np.random.default_rng(seed)
    strength = rng.normal(scale=scale, size=items)
    i = rng.integers(0, items, games)
    j = (i + rng.integers(1, items, games)) % items
    won = rng.random(games) < 1 / (1 + np.exp(strength[j] - strength[i]))
    return np.stack([np.where(won, i, j), np.where(won, j, i)], axis=1)


def random_table(items: int, games: int, seed: int = 0) -> dict[str, np.ndarray]:
    """The same as columns, with ties, the item shown first, and a home effect."""
    rng = np.random.default_rng(seed + 1)
    pairs = random_games(items, games, seed)
    swapped = rng.random(games) < 0.15
    return {
        "winner": np.where(swapped, pairs[:, 1], pairs[:, 0]),
        "loser": np.where(swapped, pairs[:, 0], pairs[:, 1]),
        "tie": (rng.random(games) < 0.25).astype(int),
        "first": np.where(rng.random(games) < 0.6, pairs[:, 0], pairs[:, 1]),
    }
