"""Settings of image preference training; flag names are those of the older Diffusion-DPO
scripts."""

from __future__ import annotations

from dataclasses import dataclass

from diffdpo.config import FREE_ON_RESUME, TrainSettings, flag
from diffdpo.errors import UserError
from diffdpo.losses import LOSSES
from diffdpo.objective import Objective, make_objective

ATTENTION = ["to_k", "to_q", "to_v", "to_out.0"]
TIES = ["drop", "soft"]
CHOICE = (
    "labels are a separate step: score both images beforehand and write the result into label_0 and"
    " label_1"
)


@dataclass
class ImageDataSettings:
    """Where pairs and pictures come from; shared by training and evaluation."""

    pretrained_model_name_or_path: str | None = flag(
        None, "pipeline folder or hub id; default: bundled"
    )
    pretrained_vae_model_name_or_path: str | None = flag(None, "another autoencoder to encode with")
    revision: str | None = flag(None, "revision on the hub")
    variant: str | None = flag(None, "weight variant, e.g. fp16")
    cache_dir: str | None = flag(None, "where downloads are kept")
    dataset_name: str | None = flag(
        None, "hub id, folder or file of preference pairs; default: bundled"
    )
    dataset_config_name: str | None = flag(None, "configuration of a hub data set")
    dataset_split_name: str = flag("train", "split to read", aliases=["--split"])
    train_data_dir: str | None = flag(None, "folder of pairs, where dataset_name is not given")
    image_column: str | None = flag(None, "column of the chosen image, if not a known name")
    caption_column: str | None = flag(None, "column of the prompt, if not a known name")
    resolution: int | None = flag(
        None, "side of the training images in pixels; default: the model's own", changes="encodings"
    )
    vae_encode_batch_size: int = flag(8, "images encoded at once")
    is_turbo: bool = flag(
        False, "train the four timesteps of a turbo model, zero terminal SNR", changes="draws"
    )


@dataclass
class ImageSettings(ImageDataSettings, TrainSettings):
    """All flags of ``train_diffusion_dpo.py``."""

    output_dir: str = flag("runs/train", "folder of this run: metrics, checkpoints, result")
    beta_dpo: float = flag(5000.0, "strength of the anchor, on the mean over latent dimensions")
    timesteps_per_pair: int = flag(
        1, "draws averaged inside the log-sigmoid; 1 is the paper's eq. 14", changes="draws"
    )
    sft: bool = flag(False, "supervised baseline on the winners, no reference")
    ties: str = flag("drop", "drop, or soft: keep ties as 50:50 labels")
    random_labels: bool = flag(
        False, "control: toss a coin for every label; an honest win rate must then vanish"
    )
    proportion_empty_prompts: float = flag(
        0.2, "share of pairs that see an empty prompt, both sides", changes="draws"
    )
    rank: int | None = flag(None, "rank of the LoRA; left out: full fine-tune")
    lora_target_modules: list[str] = flag(ATTENTION, "layers that get an adapter")
    unet_init: str | None = flag(
        None, "start policy and reference from this UNet instead of the model's"
    )
    cache_latents: bool = flag(
        False, "encode images and prompts once, to disk; then no encoder is loaded"
    )
    reference_draws: int = flag(
        0,
        "draws a pair goes round, scored by the reference once, to disk; 0: fresh, live",
        changes="draws",
    )
    random_crop: bool = flag(
        False, "random instead of centre crops, the same for both sides", changes="draws"
    )
    no_hflip: bool = flag(False, "never mirror a pair", changes="encodings")
    noise_offset: float = flag(
        0.0, "scale of a constant added to the noise of each channel", changes="draws"
    )
    input_perturbation: float = flag(
        0.0, "scale of extra noise on the network's input", changes="draws"
    )
    sdxl: bool = flag(False, "checked against model_index.json, which decides")
    choice_model: str | None = flag(None, "not done here: " + CHOICE)
    dreamlike_pairs_only: bool = flag(
        False, "only pairs whose model_0 and model_1 are dreamlike models"
    )
    run_validation: bool = flag(False, "sample policy beside reference during and after training")
    validation_steps: int = flag(200, "sample every so many steps")
    validation_prompts: list[str] = flag([], "prompts to sample; default: 8 of the data's")
    num_inference_steps: int = flag(25, "sampling steps of validation pictures")
    guidance_scale: float = flag(5.0, "classifier-free guidance of validation pictures")

    def problems(self) -> list[str]:
        found = super().problems()
        if not self.beta_dpo > 0 or self.beta_dpo == float("inf"):
            found.append(f"--beta_dpo must be positive, got {self.beta_dpo}")
        for name in (
            "timesteps_per_pair",
            "rank",
            "resolution",
            "vae_encode_batch_size",
            "validation_steps",
        ):
            if (value := getattr(self, name)) is not None and value < 1:
                found.append(f"--{name} must be at least 1, got {value}")
        if self.reference_draws < 0:
            found.append(f"--reference_draws must be 0 or more, got {self.reference_draws}")
        if self.cache_latents and self.random_crop:
            found.append(
                "--cache_latents keeps centre crops and excludes --random_crop; leave out one of"
                " the two"
            )
        if not 0 <= self.proportion_empty_prompts <= 1:
            found.append(
                "--proportion_empty_prompts must lie in [0, 1], got"
                f" {self.proportion_empty_prompts}"
            )
        if self.ties not in TIES:
            found.append(f"--ties {self.ties!r} is unknown; known: {', '.join(TIES)}")
        if self.choice_model:
            found.append(f"--choice_model {self.choice_model}: {CHOICE}")
        if self.unet_init and self.rank:
            found.append("--unet_init starts a full fine-tune; leave out --rank")
        try:
            image_objective(self)
        except UserError as error:
            found += error.mistakes
        return found + text_losses(self)

    @classmethod
    def free_on_resume(cls) -> set[str]:
        sampling = {
            "run_validation",
            "validation_steps",
            "validation_prompts",
            "num_inference_steps",
        }
        return (
            FREE_ON_RESUME
            | sampling
            | {"guidance_scale", "cache_dir", "vae_encode_batch_size", "cache_latents"}
        )

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


def image_objective(settings: ImageSettings) -> Objective:
    """The loss that the settings ask for, on beta times the reward. Raises UserError for none."""
    free = settings.loss_type in LOSSES and LOSSES[settings.loss_type].reference_free
    scale = 1.0 if free else settings.beta_dpo
    return make_objective(settings, [settings.loss_type], scale=scale)


def text_losses(settings: ImageSettings) -> list[str]:
    """Losses that need token probabilities cannot be asked of images."""
    if settings.loss_type in ("orpo", "simpo", "sigmoid_norm"):
        return [
            f"--loss_type {settings.loss_type} is defined on token log-probabilities; images have"
            " none"
        ]
    return []
