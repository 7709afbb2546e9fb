"""Counts of the rows that were read, left out or cut, and the mistakes that they show."""

from __future__ import annotations

from dataclasses import dataclass, field

from diffdpo.data.made_pairs import foreign
from diffdpo.errors import UserError, short

TOLERATED = 0.05  # share of rows that may be bad before the run stops; at least one row may


@dataclass
class Tally:
    """What became of the rows of a data set."""

    rows: int = 0  # of the source
    format: str = ""
    unread: list[str] = field(default_factory=list)  # columns that no row's reader looked at
    bad: list[str] = field(default_factory=list)  # a line for each row that cannot be used
    close: int = 0  # left out by --min_score_margin
    too_long: int = 0  # left out because the prompt alone fills --max_length
    shortest: int = 0  # tokens of the shortest prompt among these
    prompts_cut: int = 0
    completions_cut: int = 0
    endless: int = 0  # plain texts without an end, since the tokenizer has no EOS
    unprompted: int = 0  # usable rows whose prompt is empty
    repeated: int = 0  # usable rows whose completions begin with the prompt once more
    contrary: int = 0  # usable rows with the higher score at the rejected side
    left_out: list[str] = field(default_factory=list)  # texts that the chat template did not write

    def check(self, usable: int) -> None:
        """Raises UserError where too many rows are bad, or none of them is usable."""
        if len(self.bad) > max(1, TOLERATED * self.rows) or len(self.bad) == self.rows:
            raise UserError(
                f"data: {len(self.bad)} of {self.rows} rows cannot be used ({self.bad[0]})"
            )
        if usable:
            return
        reasons = [f"{self.close} have too small a score margin"] if self.close else []
        if self.too_long:
            reasons.append(
                f"{self.too_long} have prompts that fill --max_length; the shortest has"
                f" {self.shortest} tokens"
            )
        raise UserError(f"data: none of {self.rows} rows is left; {', '.join(reasons)}")

    @property
    def usable(self) -> int:
        """The rows that are trained on."""
        return self.rows - len(self.bad) - self.close - self.too_long

    def check_prompts(self) -> None:
        """Raises UserError where most rows have no prompt, or have it twice."""
        if 2 * self.unprompted > self.usable:
            raise UserError(
                f"data: {self.unprompted} of {self.usable} rows have an empty prompt; name the"
                f" prompt's column with --prompt_column, or take --data_format {self.format!r} to"
                " train without"
            )
        if 2 * self.repeated > self.usable:
            raise UserError(
                f"data: {self.repeated} of {self.usable} rows have their prompt once more at the"
                " beginning of the completions, where it would be learned; take it out there, or"
                f" take --data_format {self.format!r} to train on it"
            )

    def lines(self, limit: int | None) -> dict[str, str]:
        """The counts for the start of a run, by heading."""
        length = "no limit"
        if limit is not None:
            length = (
                f"{self.prompts_cut} prompts and {self.completions_cut} completions cut to {limit}"
            )
        if self.too_long:
            length += f"; {self.too_long} rows left out, whose prompt alone fills it"
        lines = {"length": length}
        twice = "have their prompt once more at the beginning of the completions"
        told = {"have an empty prompt": self.unprompted, twice: self.repeated}
        if parts := [f"{n} of {self.usable} rows {what}" for what, n in told.items() if n]:
            lines["prompt"] = "; ".join(parts)
        if self.contrary:
            share = f"{self.contrary} of {self.usable} rows"
            warning = "WARNING: " if 2 * self.contrary > self.usable else ""
            lines["scores"] = f"{warning}{share} have the higher score at the rejected side"
        if self.endless:
            lines["end"] = "the tokenizer has no EOS, so that no end of a text is learned"
        if others := foreign(self.unread, self.unread):
            lines["not read"] = f"columns {short(', '.join(others), 200)}"
        if self.left_out:
            lines["template"] = (
                f"writes a part of the prompts, completions or tools of {len(self.left_out)} rows"
                f" not at all: {short(self.left_out[0], 60)!r}"
            )
        if self.bad:
            lines["skipped"] = "; ".join(self.bad[:3])
        return lines
