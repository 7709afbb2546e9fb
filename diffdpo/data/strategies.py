"""The ways to mix several data sets, by name; see ``mixtures``."""

from __future__ import annotations

CONCAT, OF_MIXTURE, OF_SET = "concat", "of_mixture", "of_set"
UNDER, OVER = "interleave_under", "interleave_over"
STRATEGIES = [CONCAT, OF_MIXTURE, OF_SET, UNDER, OVER]
