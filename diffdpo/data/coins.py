"""Whole numbers drawn for many items at once: those that ``draws.generator`` gives one by one."""

from __future__ import annotations

import numpy as np

from diffdpo.draws import MASK, Purpose, generator

# Of Philox4x64-10 (Salmon et al. 2011, table 2 and section 3.3).
MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
ROUNDS = 10
HALF, LOW = np.uint64(32), np.uint64(2**32 - 1)


def below(highs_N: np.ndarray, seed: int, purpose: Purpose, items_N: np.ndarray) -> np.ndarray:
    """``generator(seed, purpose, item).integers(high)`` for N items: 20 µs each become 0.3."""
    highs = highs_N.astype(np.uint64)
    product = (first_words(seed, purpose, items_N) & LOW) * highs
    drawn_N = (product >> HALF).astype(np.int64)
    # Lemire's method (2019, arXiv 1805.10941) draws again for a few, which are left to numpy.
    for index in np.flatnonzero((product & LOW) < highs):
        item, high = int(items_N[index]), int(highs_N[index])
        drawn_N[index] = generator(seed, purpose, item).integers(high)
    return drawn_N


def first_words(seed: int, purpose: Purpose, items_N: np.ndarray) -> np.ndarray:
    """The first 64 bits of each item's generator."""
    items = items_N.astype(np.uint64)
    # numpy counts up before it computes the first block.
    zero, one = np.zeros_like(items), np.ones_like(items)
    a, b, c, d = one, zero, zero, items
    keys = seed & MASK, int(purpose)
    for _ in range(ROUNDS):
        (high_a, low_a), (high_c, low_c) = (
            product(word, factor) for word, factor in zip((a, c), MULTIPLIERS, strict=True)
        )
        a, b = high_c ^ b ^ np.uint64(keys[0]), low_c
        c, d = high_a ^ d ^ np.uint64(keys[1]), low_a
        keys = (keys[0] + WEYL[0]) & MASK, (keys[1] + WEYL[1]) & MASK
    return a


def product(words_N: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """The upper and the lower 64 bits of products of 64 by 64 bits."""
    a_high, a_low = words_N >> HALF, words_N & LOW
    b_high, b_low = np.uint64(factor >> 32), np.uint64(factor & 0xFFFFFFFF)
    low, left, right = a_low * b_low, a_high * b_low, a_low * b_high
    carry = (low >> HALF) + (left & LOW) + (right & LOW)
    high = a_high * b_high + (left >> HALF) + (right >> HALF) + (carry >> HALF)
    return high, (carry << HALF) | (low & LOW)
