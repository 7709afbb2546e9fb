"""The flags that say how a table of texts is read, in training and in evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from diffdpo.config import BaseSettings
from diffdpo.data.columns import given_columns
from diffdpo.data.paths import missing_data
from diffdpo.flags import flag

# The flags that say what the columns of a table mean; another table has others.
TABLE = ["dataset_info", "prompt_column", "chosen_column", "rejected_column", "label_column"]
TABLE += ["dataset_columns"]
RULES = ["keep_start", "keep_end", "proportional"]


@dataclass(frozen=True)
class TextTableSettings(BaseSettings):
    """The flags that say how a table of texts is read, in training and in evaluation."""

    dataset_info: str | None = flag(
        None,
        "LLaMA-Factory's dataset_info.json, in which dataset_name is an entry",
        group="data",
    )
    prompt_column: str | None = flag(None, "the column that is the prompt", group="data")
    chosen_column: str | None = flag(None, "the column that is chosen", group="data")
    rejected_column: str | None = flag(None, "the column that is rejected", group="data")
    label_column: str | None = flag(None, "the column that is the label", group="data")
    dataset_columns: list[str] = flag(
        [], "the only columns that are read; left out: all that a format knows", group="data"
    )
    truncation_mode: str = flag(
        "keep_start",
        "what is too long loses its end, as in TRL (keep_start); the prompt its beginning, down to"
        " half (keep_end); or both their ends in proportion, as in LLaMA-Factory (proportional)",
        choices=RULES,
        group="data",
    )

    dataset_num_proc: int | None = flag(
        None,
        "processes that tokenise; default: one for a few thousand rows, else one a CPU",
        aliases=["--preprocessing_num_workers"],
        group="data",
        least=1,
        most=1024,
    )

    @property
    def columns(self) -> dict[str, str | None]:
        """The columns that flags name, by role."""
        return given_columns(self, ("prompt", "chosen", "rejected", "label"))

    def problems(self) -> list[str]:
        lines = super().problems()
        if not self.dataset_info:
            return lines
        named = [f"{role}_column" for role, column in self.columns.items() if column]
        named += ["dataset_columns"] if self.dataset_columns else []
        named += ["data_format"] if getattr(self, "data_format", None) else []
        if named:
            lines.append(f"--dataset_info says what columns mean; leave out --{named[0]}")
        return lines + missing_data(self.dataset_info)
