"""The settings of the evaluation of an image policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from diffdpo.config import Layer
from diffdpo.data.paths import missing_data, missing_folder
from diffdpo.engine.bits_settings import bits_problems
from diffdpo.engine.run_config import (
    departures,
    layer_of_policy,
    recorded,
    result_problems,
    run_of,
    same,
)
from diffdpo.engine.settings import PRECISIONS
from diffdpo.flags import SEEDS, flag, one_of, restated
from diffdpo.image.flags.adapter_settings import AdapterSettings, missing_lora
from diffdpo.image.flags.process_settings import ProcessSettings
from diffdpo.image.lora_file import KOHYA_FILE, LORA_FILE
from diffdpo.image.settings import ImageDataSettings
from diffdpo.metrics.reward_settings import RewardSettings

# Settings that an evaluation takes over from the run: ALWAYS, and TIED ones only together with the
# model or data set that they belong to. A wrong reference or resolution would give a wrong verdict.
ALWAYS = ["pretrained_vae_model_name_or_path", "unet_init", "init_lora", "reference"]
ALWAYS += ["max_sequence_length", "resolution", "num_frames", "is_turbo", "noise_offset"]
ALWAYS += ["cache_dir", "mixed_precision", *(field.name for field in fields(ProcessSettings))]
TIED = {
    "pretrained_model_name_or_path": ["revision", "variant"],
    "dataset_name": ["dataset_config_name", "data_format", "chosen_column", "rejected_column"],
}
TIED["dataset_name"] += ["dataset_weights", "mix_strategy"]
TIED["dataset_name"] += ["prompt_column", "label_column", "max_image_pixels", "max_image_ratio"]
# With another value the figures are not those of what the run trained, or not against what it was
# trained against.
REFERENCE = ["pretrained_model_name_or_path", "pretrained_vae_model_name_or_path", "unet_init"]
REFERENCE += ["init_lora", "reference", "resolution", "num_frames", "is_turbo", "noise_offset"]
REFERENCE += ["max_sequence_length"]
WHOLE = "--prompts names a single file, which is read whole"
# The folder layouts of other evaluations, see ``evaluation/layouts.py``.
LAYOUTS = ("geneval", "hpsv2")
# One of them is in the folder of a finished run.
RESULTS = [LORA_FILE, KOHYA_FILE, "unet", "transformer"]


def idle_split(prompts: str | None, data: str | None) -> dict[str, str]:
    """The reason why no split is looked for; none where one is."""
    is_file = prompts is not None and Path(prompts).is_file()
    return {"dataset_split_name": WHOLE} if is_file and not data else {}


@dataclass(frozen=True)
class EvaluateSettings(RewardSettings, ProcessSettings, ImageDataSettings):
    """All flags of ``evaluate.py``."""

    policy: list[str] = flag(
        [],
        "output folders of finished runs, or checkpoints (checkpoint-N) of any; all are compared"
        " with the reference of the first",
        group="model",
    )
    control: str | None = flag(
        None,
        "the run that was trained with --random_labels; its win rate is what labels had no part in",
        group="model",
    )
    unet_init: str | None = flag(
        None,
        "the weights that training started from; default: the run's",
        aliases=["--init_policy"],
        group="model",
    )
    init_lora: str | None = restated(
        AdapterSettings, "init_lora", help="the LoRA that training went on from; default: the run's"
    )
    reference: str = restated(AdapterSettings, "reference")
    base_precision: str | None = restated(
        AdapterSettings,
        "base_precision",
        help="judge a LoRA on weights that are stored so; default: on those of mixed_precision",
    )
    mixed_precision: str | None = flag(
        None,
        "precision of the model: no, bf16 or fp16; default: the run's",
        group="evaluation",
        choices=PRECISIONS,
    )
    noise_offset: float = flag(
        0.0, "noise offset of the run's training", group="evaluation", least=0
    )
    output_dir: str = flag(
        "runs/evaluation",
        "where evaluation.json, sheet.png, report.html and the pictures go",
        group="evaluation",
    )
    prompts: str | None = flag(
        None,
        "sample these prompts and not those of the pairs: a .txt, .tsv, .json or .jsonl file, or a"
        " data set; the implicit accuracy then needs --dataset_name",
        group="data",
    )
    votes: str | None = flag(
        None, "votes.jsonl of people who compared these policies", group="data"
    )
    best_of: int | None = flag(
        None,
        "let the reference sample so many pictures a prompt, and compare its best with the policy",
        group="evaluation",
        least=2,
    )
    headline: str | None = flag(
        None,
        "the reward on top; default: the first that did not make the training pairs",
        group="rewards",
    )
    diversity_model: str | None = flag(
        None,
        "folder of a CLIP model whose image tower measures how much pictures differ; default:"
        " colours and pixels",
        group="rewards",
    )
    export: list[str] = flag(
        [], f"copy the pictures into the folders of {' or '.join(LAYOUTS)}", group="evaluation"
    )
    dataset_split_name: str = flag(
        "test", "split of the pairs to judge on", aliases=["--split"], group="data"
    )
    num_prompts: int = flag(120, "at most so many distinct prompts", group="evaluation", least=1)
    images_per_prompt: int = flag(
        2, "pictures per prompt, each from its own seed", group="evaluation", least=1
    )
    num_inference_steps: int = flag(20, "sampling steps", group="evaluation", least=1, most=1000)
    guidance_scale: float = flag(3.0, "classifier-free guidance", group="evaluation", least=0)
    sample_batch_size: int = flag(16, "pictures sampled at once", group="evaluation", least=1)
    implicit_draws: int = flag(
        10,
        "draws (timestep, noise) per pair; 0 leaves the accuracy out",
        group="evaluation",
        least=0,
        most=1000,
    )
    seed: int = flag(0, "seed of the starting noise and the draws", group="evaluation", **SEEDS)

    def problems(self) -> list[str]:
        lines = [*super().problems(), *bits_problems(self.base_precision)]
        lines += [line for name in self.export for line in one_of("export", name, LAYOUTS)]
        if self.headline and self.reward and self.headline not in self.reward:
            lines += one_of("headline", self.headline, self.reward)
        tower = self.diversity_model
        lines += missing_folder(tower, f"--diversity_model {tower}: no such folder")
        lines += [f"--prompts: {line}" for line in missing_data(self.prompts)]
        if self.votes and not Path(self.votes).is_file():
            lines.append(f"--votes {self.votes}: no such file")
        return lines + missing_lora(self.init_lora) + self.policy_problems()

    def idle(self) -> dict[str, str]:
        data = self.dataset_name or self.train_data_dir
        return super().idle() | idle_split(self.prompts, data)

    @property
    def needs_pairs(self) -> bool:
        """Whether the prompts are those of pairs."""
        return self.prompts is None

    @property
    def runs(self) -> list[str]:
        """The results that are judged: the policies and the control."""
        return [*self.policy, *([self.control] if self.control else [])]

    def policy_problems(self) -> list[str]:
        """A line for each result that cannot be judged, or not together with the first."""
        named = {"pretrained_model_name_or_path": self.pretrained_model_name_or_path}
        if self.prompts is None:
            named["dataset_name"] = self.dataset_name or self.train_data_dir
        lines = []
        for place, run in enumerate(self.runs or [None]):
            flag = "control" if run == self.control and place else "policy"
            lines += result_problems(run, RESULTS, {} if place else named, True, flag)
            if run is not None and place:
                lines += self.misplaced(flag, run)
            if run is not None and run in self.runs[:place]:
                lines.append(f"--{flag} {run}: is named twice")
            full = any((Path(run or "") / part).is_dir() for part in ("unet", "transformer"))
            if self.base_precision and run and full:
                lines.append(
                    f"--base_precision {self.base_precision}: the {flag} is a full fine-tune; leave"
                    " the flag out"
                )
        return lines

    def misplaced(self, flag: str, run: str) -> list[str]:
        """Why a further run does not stand beside the first policy."""
        own, base = recorded(run_of(run)), self.pretrained_model_name_or_path
        model = own.get("pretrained_model_name_or_path", base)
        if base and not same(model, base):
            return [
                f"--{flag} {run}: was trained from {model}, not from {base}; judge it by itself"
            ]
        if flag == "control" and own.get("random_labels") is False:
            return [
                f"--control {run}: was not trained with --random_labels; a control is the same run"
                " on labels of coin tosses"
            ]
        return []

    @classmethod
    def beneath(cls, given: Mapping[str, Any]) -> Layer | None:
        """The model and data that the first of the evaluated runs recorded."""
        policy = next(iter(given.get("policy") or []), None)
        run = recorded(run_of(policy)) if policy else {}
        tied = dict(TIED)
        if given.get("prompts"):  # then pairs are read only where they are named
            del tied["dataset_name"]
        return layer_of_policy(policy, run, given, tied, ALWAYS)

    @property
    def departures(self) -> list[str]:
        """A line for each setting by which the reference is not that of a policy's training."""
        names = {name: getattr(self, name) for name in REFERENCE}
        return departures(self.policy, names, recorded)

    def start_of(self, run: str) -> AdapterSettings:
        """What the training of a run started from: the first policy's is what the settings say,
        another's what it recorded itself."""
        own = {} if run == self.policy[0] else recorded(run_of(run))
        names = ("unet_init", "init_lora", "reference")
        return AdapterSettings(**{name: own.get(name, getattr(self, name)) for name in names})
