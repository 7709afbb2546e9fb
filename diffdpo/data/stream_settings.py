"""The flags of training on rows that are read from shards while it runs."""

from __future__ import annotations

from dataclasses import dataclass

from diffdpo.config import BaseSettings
from diffdpo.flags import flag

BUFFER = 10_000
IN_MEMORY = "--streaming reads shards, and these rows are in memory; leave it out"
# Flags of images or text that need all rows before the first step.
NEED_ALL = ["cache_latents", "reference_draws", "dreamlike_pairs_only", "precompute_ref_log_probs"]
NEED_ALL += ["group_by_length", "min_score_margin", "dataset_info", "holdout"]


@dataclass(frozen=True)
class StreamSettings(BaseSettings):
    """The flags of training on rows that are read from shards while it runs."""

    streaming: bool = flag(
        False,
        "read rows from shards, parquet or tar files of this machine, while training runs",
        aliases=["--dataset_streaming"],
        group="data",
    )
    buffer_size: int = flag(
        BUFFER,
        "with streaming: rows are shuffled within so many, which lie unpacked on disk",
        group="data",
        least=1,
        most=10**9,
    )

    def problems(self) -> list[str]:
        lines = super().problems()
        if not self.streaming:
            other = self.buffer_size != BUFFER
            return lines + ["--buffer_size is that of --streaming; leave it out"] * other
        given = [name for name in NEED_ALL if getattr(self, name, None) not in (None, False, 0, [])]
        return lines + [
            f"--{name} needs all rows before the first step, --streaming reads them later; leave"
            " out one of the two"
            for name in given
        ]
