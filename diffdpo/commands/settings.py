"""Settings of the commands that call other commands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffdpo.config import BaseSettings, read_yaml
from diffdpo.data.bundled import bundled
from diffdpo.engine.run_config import recorded
from diffdpo.engine.settings import TrainSettings
from diffdpo.errors import not_installed, short
from diffdpo.flags import StrictParser, flag, restated
from diffdpo.image.bundled import FLOW_MODEL, FLOW_RECIPE, PAIRS
from diffdpo.image.settings import ImageSettings
from diffdpo.text.settings import TextSettings


def precompute_settings(words: Sequence[str]) -> type[TrainSettings]:
    """The text trainer's settings where a language model is named, else the image trainer's.

    It may be named by a flag or in the ``--config`` file.
    """
    return (
        TextSettings if given_of(TextSettings, words).get("model_name_or_path") else ImageSettings
    )


def pair_settings(words: Sequence[str]) -> type[BaseSettings]:
    """The settings of pairs of texts where a language model, or a run that trained one, is named;
    else those of pairs of pictures."""
    from diffdpo.image.pair_settings import PairSettings  # not above: only this command needs them
    from diffdpo.text.evaluate_settings import RESULTS
    from diffdpo.text.pair_settings import TextPairSettings

    given = given_of(TextPairSettings, words)
    folder = Path(str(given.get("policy")))
    run = recorded(folder) if folder.is_dir() else {}
    writes = "model_name_or_path" in run or (
        not run and any((folder / mark).is_file() for mark in RESULTS)
    )
    return TextPairSettings if given.get("model_name_or_path") or writes else PairSettings


def given_of(cls: type[BaseSettings], words: Sequence[str]) -> dict[str, Any]:
    """What flags and the ``--config`` file give, of the settings of ``cls``."""
    given, _ = StrictParser(cls).read([word for word in words if word not in ("-h", "--help")])
    if "config" in given:
        given = {**read_yaml(given["config"], "--config "), **given}
    return given


@dataclass(frozen=True)
class DemoSettings(BaseSettings):
    """The one flag of ``diffdpo demo``."""

    output_dir: str = flag("runs/demo", "where the report goes, and the run beside it, in train/")

    @property
    def training(self) -> list[str]:
        """The trainer's flags; a run that exists already is resumed."""
        folder = Path(self.output_dir) / "train"
        resume = ["--resume_from_checkpoint", "latest"] if folder.is_dir() else []
        return ["--output_dir", str(folder), *resume]

    @property
    def evaluation(self) -> list[str]:
        """The flags of the evaluation."""
        return ["--policy", str(Path(self.output_dir) / "train"), "--output_dir", self.output_dir]


@dataclass(frozen=True)
class DemoFlowSettings(DemoSettings):
    """The one flag of ``diffdpo demo-flow``."""

    output_dir: str = flag(
        "runs/demo-flow", "where the report goes, and the run beside it, in train/"
    )

    @property
    def training(self) -> list[str]:
        """The trainer's flags, with the recipe and the model of the flow run."""
        named = ["--config", bundled(FLOW_RECIPE)]
        named += ["--pretrained_model_name_or_path", bundled(FLOW_MODEL)]
        named += ["--dataset_name", bundled(PAIRS)]
        return [*named, *super().training]

    @property
    def evaluation(self) -> list[str]:
        """The flags of the evaluation; a flow needs fewer steps, its paths are nearly straight."""
        return [*super().evaluation, "--num_inference_steps", "10"]


@dataclass(frozen=True)
class DemoTextSettings(DemoSettings):
    """The one flag of ``diffdpo demo-text``."""

    output_dir: str = flag(
        "runs/demo-text", "where the report goes, and the run beside it, in train/"
    )

    def problems(self) -> list[str]:
        return super().problems() + not_installed("vaderSentiment")


@dataclass(frozen=True)
class ExportSettings(BaseSettings):
    """The flags of ``diffdpo export``."""

    run: str | None = flag(None, "the folder of a run, also of one that goes on", positional=True)
    step: int | None = flag(None, "the step of the checkpoint that is written out", least=1)
    output_dir: str | None = flag(None, "where the result goes; default: export-N in the run's")
    trust_remote_code: bool = restated(TextSettings, "trust_remote_code")

    @property
    def checkpoint(self) -> Path:
        """The folder of the checkpoint."""
        return Path(str(self.run)) / f"checkpoint-{self.step}"

    @property
    def output(self) -> Path:
        """The folder of the result."""
        return Path(self.output_dir or Path(str(self.run)) / f"export-{self.step}")

    def problems(self) -> list[str]:
        lines = super().problems()
        if self.run is None or not Path(self.run).is_dir():
            found = "" if self.run is None else f" {self.run}: no such folder;"
            return [*lines, f"export{found} the folder of a run is needed: diffdpo export RUN"]
        if lines or self.checkpoint.is_dir():
            return lines
        held = sorted(Path(self.run).glob("checkpoint-*"), key=lambda path: (len(path.name), path))
        names = ", ".join(path.name for path in held) or "no checkpoint"
        asked = "is needed" if self.step is None else f"{self.step}: not there"
        return [f"--step {asked}; {self.run} holds {short(names)}"]
