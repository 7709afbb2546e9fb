"""The flags that name preference data of text and say how rows are read."""

from __future__ import annotations

from dataclasses import dataclass

from diffdpo.data.paths import missing_data
from diffdpo.flags import flag
from diffdpo.text.flags.mix_settings import MixSettings
from diffdpo.text.flags.sources import entry_problems
from diffdpo.words import number


def size(word: str) -> float | None:
    """A number of rows or a share; None where it is 0, which recipes write for nothing."""
    return number(word, float, may_be_none=True) or None


@dataclass(frozen=True)
class TextDataSettings(MixSettings):
    """The data flags of ``train_text_dpo.py``."""

    eval_fraction: float | None = flag(
        None,
        "rows that are kept out of training and measured on: a number, or below 1 a share; picked"
        " by the seed, whole prompts",
        aliases=["--val_size", "--test_split_size"],
        group="data",
        read=size,
        above=0,
    )
    data_format: str | None = flag(
        None,
        "a row of diffdpo.data.text.TEXT_FORMATS, or file.py:NAME; default: told by the columns",
        group="data",
    )
    max_length: int | None = flag(
        1024,
        "tokens of prompt and completion; none: no limit",
        aliases=["--cutoff_len"],
        group="data",
        least=2,
    )
    min_score_margin: float | None = flag(
        None, "leave out rows whose score_chosen leads by less", group="data"
    )
    soft_label_scale: float | None = flag(
        None,
        "P(chosen wins) = sigmoid(this x (score_chosen - score_rejected))",
        group="data",
        above=0,
    )
    preview: int = flag(0, "print so many rows as the model will see them", group="data", least=0)

    def problems(self) -> list[str]:
        lines = super().problems()
        if self.dataset_info or entry_problems(self.datasets):
            return lines  # names are then those of its entries, or none can be told
        sources = [*self.sources, *(self.held_out_sources if self.eval_dataset_name else [])]
        return lines + [line for one in sources for line in missing_data(one.name)]
