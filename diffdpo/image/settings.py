"""Settings of image preference training; flag names are those of the older Diffusion-DPO
scripts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffdpo.config import Layer, read_yaml
from diffdpo.data.bundled import bundled
from diffdpo.data.paths import missing_folder, missing_models
from diffdpo.data.stream_settings import StreamSettings
from diffdpo.engine.bits_settings import not_in_bfloat16, not_in_shares
from diffdpo.engine.settings import FREE_ON_RESUME, MANY
from diffdpo.flags import flag
from diffdpo.image.bundled import RECIPE
from diffdpo.image.flags.data_settings import PairDataSettings
from diffdpo.image.flags.loss_settings import ImageLossSettings, loss_problems
from diffdpo.image.flags.process_settings import ProcessSettings
from diffdpo.image.flags.prompt_settings import PromptSettings
from diffdpo.image.flags.watch_settings import FREE_OF_WATCHING
from diffdpo.image.lora_file import FUSE, holds_lora, is_file

TIES = ["drop", "soft"]
CHOICE = (
    "labels are a separate step: score both images beforehand and write the result into label_0 and"
    " label_1"
)


@dataclass(frozen=True)
class ImageDataSettings(PromptSettings, PairDataSettings):
    """The settings of model and data that training and evaluation share."""

    pretrained_model_name_or_path: str | None = flag(
        None, "pipeline folder or hub id; default: bundled", group="model"
    )
    pretrained_vae_model_name_or_path: str | None = flag(
        None, "another autoencoder to encode with", group="model"
    )
    revision: str | None = flag(None, "revision on the hub", group="model")
    variant: str | None = flag(None, "weight variant, e.g. fp16", group="model")
    cache_dir: str | None = flag(None, "where downloads are kept", group="model")
    chosen_column: str | None = flag(
        None,
        "column of the chosen image, if not a known name; with --label_column of the first",
        aliases=["--image_column"],
        group="data",
    )
    rejected_column: str | None = flag(
        None, "column of the rejected image; with --label_column of the second", group="data"
    )
    prompt_column: str | None = flag(
        None,
        "column of the prompt, if not a known name",
        aliases=["--caption_column"],
        group="data",
    )
    label_column: str | None = flag(
        None, "column of the label: 1 where the first image won, 0, or 0.5 for a tie", group="data"
    )
    max_image_pixels: int = flag(
        250_000_000, "larger images count as unreadable", group="data", changes="encodings", least=1
    )
    max_image_ratio: float = flag(
        50.0,
        "images with a side so many times the other count as unreadable",
        group="data",
        changes="encodings",
        least=1,
    )
    data_format: str | None = flag(
        None,
        "a row of diffdpo.data.image_formats.IMAGE_FORMATS, or file.py:NAME; default: told by the"
        " columns",
        group="data",
    )
    resolution: int | None = flag(
        None,
        "side of the training images in pixels; default: the model's own",
        group="data",
        changes="encodings",
        least=8,
        most=16384,  # beyond it one image takes gigabytes
    )
    num_frames: int | None = flag(
        None,
        "frames of a clip, the first of each; default: what the first pair has, at most the model's"
        " own; pictures have 1",
        group="data",
        changes="encodings",
        least=1,
        most=10_000,
    )
    vae_encode_batch_size: int = flag(
        8, "images encoded at once", group="caching", least=1, most=MANY
    )
    is_turbo: bool = flag(
        False,
        "train the four timesteps of a turbo model, zero terminal SNR",
        group="model",
        changes="draws",
    )

    def problems(self) -> list[str]:
        model, data = self.pretrained_model_name_or_path, self.datasets
        lines = [
            *super().problems(),
            # Of a file the loader says what it is.
            *([] if is_file(model) else missing_folder(model, f"model {model}: no such folder")),
            *missing_models(self, ["pretrained_vae_model_name_or_path"]),
        ]
        if self.train_data_dir not in (None, self.dataset_name or self.train_data_dir):
            lines.append(
                f"--train_data_dir {self.train_data_dir}: --dataset_name {self.dataset_name} is"
                " read; keep one"
            )
        if model and not data and self.needs_pairs:
            lines.append(
                "--dataset_name is needed beside a model: a hub id, folder or file of preference"
                " pairs"
            )
        return lines

    def idle(self) -> dict[str, str]:
        local = Path(self.pretrained_model_name_or_path or "").is_dir()
        reason = {"revision": "the model is a folder of this machine, which has no revisions"}
        return super().idle() | (reason if local else {})

    @property
    def needs_pairs(self) -> bool:
        """Whether pairs must be named beside a model."""
        return True

    @property
    def hub_options(self) -> dict[str, Any]:
        """The options of loading from the hub: version of the model, folder of downloads."""
        return {name: getattr(self, name) for name in ("revision", "variant", "cache_dir")}


@dataclass(frozen=True)
class ImageSettings(ProcessSettings, ImageDataSettings, ImageLossSettings, StreamSettings):
    """All flags of ``train_diffusion_dpo.py``."""

    timesteps_per_pair: int = flag(
        1,
        "draws averaged inside the log-sigmoid; 1 is the paper's eq. 14",
        group="training",
        changes="draws",
        least=1,
        most=1000,
    )
    ties: str = flag("drop", "drop, or soft: keep ties as 50:50 labels", group="data", choices=TIES)
    random_labels: bool = flag(
        False,
        "control: toss a coin for every label; an honest win rate must then vanish",
        group="data",
    )
    proportion_empty_prompts: float = flag(
        0.2,
        "share of pairs that see an empty prompt, both sides",
        group="data",
        changes="draws",
        least=0,
        most=1,
    )
    cache_latents: bool = flag(
        False, "encode images and prompts once, to disk; then no encoder is loaded", group="caching"
    )
    reference_draws: int = flag(
        0,
        "number K of fixed draws per pair, whose reference scores are stored; visit v uses draw"
        " v mod K; 0: fresh draws, scored live",
        group="caching",
        least=0,
        most=1000,
    )
    given_noise: bool = flag(
        False,
        "the noise that each picture was sampled from, by the columns seed_0 and seed_1, in place"
        " of a drawn one",
        group="data",
        changes="draws",
    )
    mask_column: str | None = flag(
        None,
        "column of masks: errors count where white; NAME for both pictures, or NAME_0 and NAME_1",
        group="data",
        changes="draws",
    )
    random_crop: bool = flag(
        False,
        "random instead of centre crops, the same for both sides",
        group="data",
        changes="draws",
    )
    no_hflip: bool = flag(False, "never mirror a pair", group="data", changes="encodings")
    noise_offset: float = flag(
        0.0,
        "scale of a constant added to the noise of each channel",
        group="training",
        changes="draws",
        least=0,
    )
    input_perturbation: float = flag(
        0.0,
        "scale of extra noise on the network's input",
        group="training",
        changes="draws",
        least=0,
    )
    sdxl: bool = flag(False, "checked against model_index.json, which decides", group="model")
    choice_model: str | None = flag(None, "not done here: " + CHOICE, group="data")
    dreamlike_pairs_only: bool = flag(
        False, "only pairs whose model_0 and model_1 are dreamlike models", group="data"
    )

    def problems(self) -> list[str]:
        lines = super().problems()
        if self.cache_latents and self.random_crop:
            lines.append(
                "--cache_latents keeps centre crops and excludes --random_crop; leave out one of"
                " the two"
            )
        if self.given_noise and (self.noise_offset or self.input_perturbation):
            lines.append(
                "--given_noise takes the noise as it was; leave out --noise_offset and"
                " --input_perturbation"
            )
        asked = f"--mixed_precision {self.mixed_precision}"
        lines += not_in_bfloat16(self.base_precision, self.mixed_precision, asked)
        if self.offload and self.torch_compile:
            lines.append(
                "--offload and --torch_compile exclude each other; leave out one of the two"
            )
        if self.choice_model:
            lines.append(f"--choice_model {self.choice_model}: {CHOICE}")
        if holds_lora(self.resume_from_checkpoint):
            lines.append(f"--resume_from_checkpoint {self.resume_from_checkpoint}: a LoRA; {FUSE}")
        return lines + loss_problems(self, self.reference_draws > 0)

    def problems_in_shares(self) -> list[str]:
        lines = super().problems_in_shares()
        if self.offload:
            lines.append("--offload: FSDP2 holds weights in shares on the devices; leave it out")
        return lines + not_in_shares(self.base_precision)

    @property
    def precision(self) -> str | None:
        """The precision; frozen weights in few bits compute in bfloat16."""
        return "bf16" if self.base_precision else super().precision

    @classmethod
    def beneath(cls, given: Mapping[str, Any]) -> Layer | None:
        """The recipe of the bundled run, where neither a model nor ``--config`` is given."""
        if "config" in given or given.get("pretrained_model_name_or_path"):
            return None
        return Layer(RECIPE, read_yaml(bundled(RECIPE)))

    @classmethod
    def free_on_resume(cls) -> set[str]:
        written = {"cache_dir", "vae_encode_batch_size", "cache_latents"}
        written |= {"lora_format", "lora_dtype", "offload"}
        return FREE_ON_RESUME | FREE_OF_WATCHING | written

    @classmethod
    def inert(cls) -> dict[str, str]:
        return {
            "local_rank": "the launcher's environment says which process this is",
            "hard_skip_resume": (
                "resuming computes its position from the step number; there is nothing to skip"
            ),
            "enable_xformers_memory_efficient_attention": (
                "PyTorch's own fused attention is always on"
            ),
            "prior_generation_precision": "no prior images are generated in preference training",
            "non_ema_revision": "one set of weights is read",
        }
