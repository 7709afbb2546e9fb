"""Settings of what is trained of an image network, of what it starts from, and of LoRA files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffdpo.config import BaseSettings
from diffdpo.data.paths import missing_folder
from diffdpo.engine.bits_settings import BASE_PRECISIONS, STORED, bits_problems
from diffdpo.flags import flag
from diffdpo.image.lora_file import FORMATS, LORA_FILE, PRECISIONS, lora_in

REFERENCES = ["start", "base", "ema"]
NEEDS_LORA = "is about a LoRA; add --rank or --init_lora, or leave it out"


@dataclass(frozen=True)
class AdapterSettings(BaseSettings):
    """The settings of LoRA training and of where training starts."""

    rank: int | None = flag(
        None, "rank of the LoRA; left out: full fine-tune", group="model", least=1, most=16384
    )
    lora_alpha: float | None = flag(
        None,
        "scale of the LoRA: what it adds is multiplied by alpha / rank; default: the rank",
        group="model",
        above=0,
        most=2**20,
    )
    lora_target_modules: list[str] = flag(
        [], "layers that get an adapter; default: the model's own list", group="model"
    )
    use_dora: bool = flag(
        False, "DoRA: train the magnitude of each layer's weights as well", group="model"
    )
    use_rslora: bool = flag(
        False, "rank-stabilised LoRA: scale by alpha / sqrt(rank)", group="model"
    )
    lora_format: str = flag(
        "both",
        "files of the LoRA: diffusers, kohya (for ComfyUI and A1111), or both where there is"
        " a form of kohya",
        group="model",
        choices=FORMATS,
    )
    lora_dtype: str = flag(
        "fp32", "precision of the LoRA files: fp32, bf16 or fp16", group="model", choices=PRECISIONS
    )
    base_precision: str | None = flag(
        None,
        STORED,
        group="model",
        choices=BASE_PRECISIONS,
        changes="scores",
    )
    offload: bool = flag(
        False,
        "keep the weights that are frozen under adapters in host memory, and copy those of a block"
        " to the device when it runs; implies what gradient_checkpointing does",
        group="model",
    )
    unet_init: str | None = flag(
        None,
        "start policy and reference from these weights instead of the model's: the folder of a"
        " full fine-tune, of a pipeline, or of its UNet or transformer alone",
        aliases=["--init_policy"],
        group="model",
    )

    init_lora: str | None = flag(
        None,
        "train on from this LoRA, a run's folder or a .safetensors file; rank, alpha and layers"
        " are its own",
        group="model",
    )
    reference: str = flag(
        "start",
        "start: the policy as it was; base: the model without what --init_lora or --init_policy"
        " brings; ema: a moving average of the policy",
        group="model",
        choices=REFERENCES,
    )

    @property
    def is_lora(self) -> bool:
        """Whether adapters are trained, and not the network itself."""
        return self.rank is not None or self.init_lora is not None

    def problems(self) -> list[str]:
        lines = super().problems()
        if not self.is_lora:
            lines += [f"--{name} {NEEDS_LORA}" for name in self.lora_options()]
        elif self.unet_init:
            lora = "--init_lora" if self.init_lora else "--rank"
            lines.append(f"--unet_init starts a full fine-tune; leave out {lora}")
        if self.reference == "base" and not (self.init_lora or self.unet_init):
            lines.append("--reference base goes with --init_lora or --init_policy; leave it out")
        if self.base_precision and not self.is_lora:
            lines.append(f"--base_precision {self.base_precision} {NEEDS_LORA}")
        if self.offload and not self.is_lora:
            lines.append("--offload is for a frozen base under a LoRA; add --rank or leave it out")
        if self.offload and self.base_precision == "nf4":
            lines.append(
                "--offload: nf4 weights are made on the GPU and stay there; take --base_precision"
                " int8"
            )
        lines += bits_problems(self.base_precision)
        if self.use_dora and self.base_precision not in (None, "bf16"):
            lines.append("--use_dora reads the model's weights; leave out --base_precision")
        lines += missing_lora(self.init_lora)
        lines += missing_folder(self.unet_init, f"--unet_init {self.unet_init}: no UNet there")
        return lines

    def lora_options(self) -> list[str]:
        """The settings of a LoRA that differ from their defaults."""
        given = {"lora_alpha": self.lora_alpha, "use_dora": self.use_dora}
        given |= {"use_rslora": self.use_rslora, "lora_format": self.lora_format != "both"}
        given |= {"lora_dtype": self.lora_dtype != "fp32"}
        given |= {"lora_target_modules": bool(self.lora_target_modules)}
        return [name for name, value in given.items() if value]


def missing_lora(name: str | None) -> list[str]:
    """A line where ``--init_lora`` names nothing that holds a LoRA."""
    if name is None:
        return []
    path = Path(name)
    if path.is_dir():
        where = None if lora_in(path) else f"no {LORA_FILE} there; did its run finish?"
    elif not path.exists():
        where = "no such folder or file"
    else:
        pickled = path.suffix != ".safetensors"
        where = "safetensors files alone are read" if pickled else None
    return [f"--init_lora {name}: {where}"] if where else []
