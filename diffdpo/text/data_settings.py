"""The flags that name preference data of text and say how rows are read."""

from __future__ import annotations

from dataclasses import dataclass

from diffdpo.config import BaseSettings
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
        return {
            role: getattr(self, f"{role}_column")
            for role in ("prompt", "chosen", "rejected", "label")
        }

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


@dataclass(frozen=True)
class TextDataSettings(TextTableSettings):
    """The data flags of ``train_text_dpo.py``."""

    dataset_name: str | None = flag(
        None, "hub id, folder or file of preferences", aliases=["--dataset"], group="data"
    )
    dataset_config: str | None = flag(
        None, "configuration of a hub data set", aliases=["--dataset_config_name"], group="data"
    )
    dataset_train_split: str = flag("train", "split to train on", group="data")
    dataset_test_split: str = flag(
        "test", "split that is held out, where eval_strategy asks for one", group="data"
    )
    eval_dataset_name: str | None = flag(
        None,
        "held-out rows from elsewhere: hub id, folder or file",
        aliases=["--eval_dataset"],
        group="data",
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
        if self.dataset_info:
            return lines  # names are then those of its entries
        return lines + missing_data(self.dataset_name) + missing_data(self.eval_dataset_name)
