"""Settings: typed dataclasses, every flag defined once; strict parsing of flags and YAML files."""

from __future__ import annotations

import dataclasses
import difflib
import math
from argparse import SUPPRESS, Action, ArgumentError
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from transformers import HfArgumentParser

from diffdpo.errors import UserError


def flag(
    default: Any, help: str, aliases: list[str] | None = None, changes: str | None = None
) -> Any:
    """A settings field that is also a command-line flag; ``aliases`` are its names in other
    programs, ``changes`` the stored numbers that it changes (see ``diffdpo.cache.keys``)."""
    metadata = {"help": help, **({"aliases": aliases} if aliases else {})}
    if changes:
        metadata["changes"] = changes
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


Settings = TypeVar("Settings", bound="BaseSettings")


@dataclass
class BaseSettings:
    """What every command has. ``problems`` names all mistakes at once."""

    def problems(self) -> list[str]:
        """One line for every setting that cannot work."""
        return []

    @classmethod
    def inert(cls) -> dict[str, str]:
        """Flags of other programs that are accepted and change nothing here, each with the
        reason."""
        return {}


@dataclass
class TrainSettings(BaseSettings):
    """What the engine reads, whatever the modality."""

    output_dir: str = flag("runs/train", "folder of this run: metrics, checkpoints, result")
    seed: int = flag(
        0, "all randomness is a function of this number, the pair and the visit", changes="draws"
    )
    train_batch_size: int = flag(4, "pairs per process and micro-batch")
    gradient_accumulation_steps: int = flag(1, "micro-batches per optimizer step")
    num_train_epochs: float = flag(1.0, "passes over the pairs, where max_train_steps is not given")
    max_train_steps: int | None = flag(None, "optimizer steps; overrides num_train_epochs")
    max_train_samples: int | None = flag(None, "use only this many pairs, picked by the seed")

    loss_type: str = flag("sigmoid", "a row of diffdpo.losses.LOSSES")
    label_smoothing: float = flag(
        0.0, "share of labels believed flipped; 0: the loss's own default"
    )
    dpop_lambda: float = flag(50.0, "dpop: charge for a chosen item made less likely")
    desirable_weight: float = flag(1.0, "kto: weight of desirable items")
    undesirable_weight: float = flag(1.0, "kto: weight of undesirable items")

    learning_rate: float = flag(1e-5, "peak rate; 0 is a dry run")
    scale_lr: bool = flag(False, "multiply the rate by processes x accumulation x batch size")
    lr_scheduler: str = flag("constant", "a schedule of diffusers.optimization")
    lr_warmup_steps: int = flag(0, "steps of linear warm-up, for schedules that have one")
    lr_num_cycles: int = flag(1, "hard resets of cosine_with_restarts")
    lr_power: float = flag(1.0, "power of the polynomial schedule")
    use_8bit_adam: bool = flag(False, "AdamW with 8-bit state, where bitsandbytes is installed")
    use_adafactor: bool = flag(False, "Adafactor in place of AdamW: less memory")
    adam_beta1: float = flag(0.9, "AdamW's first decay")
    adam_beta2: float = flag(0.999, "AdamW's second decay")
    adam_weight_decay: float = flag(1e-2, "decoupled weight decay")
    adam_epsilon: float = flag(1e-8, "AdamW's epsilon")
    max_grad_norm: float = flag(1.0, "clip the gradient to this norm")

    precompute_dir: str = flag(
        "~/.cache/diffdpo",
        "where what is computed once is kept for later runs",
        aliases=["--reference_cache_dir"],
    )
    mixed_precision: str | None = flag(
        None, "no, bf16 or fp16; left out: what accelerate is set to", changes="scores"
    )
    gradient_checkpointing: bool = flag(False, "recompute activations: less memory, slower")
    torch_compile: bool = flag(
        False, "compile the network: a slow first step, faster ones after it"
    )
    allow_tf32: bool = flag(
        False, "TF32 matrix products on Ampere and later GPUs", changes="scores"
    )
    dataloader_num_workers: int = flag(0, "worker processes that decode data")

    checkpointing_steps: int = flag(500, "save a checkpoint every so many steps")
    checkpoints_total_limit: int | None = flag(None, "keep only the newest N checkpoints")
    resume_from_checkpoint: str | None = flag(None, "a checkpoint's folder, or 'latest'")

    logging_steps: int = flag(10, "write out the collected metrics every so many steps")
    report_to: str = flag("tensorboard", "tensorboard, wandb, comet_ml, all or none")
    tracker_name: str = flag(
        "diffdpo", "project in the tracker", aliases=["--tracker_project_name"]
    )
    logging_dir: str = flag("logs", "the tracker's folder inside output_dir")
    push_to_hub: bool = flag(False, "upload the result at the end")
    hub_token: str | None = flag(None, "token for the upload; never written to config.yaml")
    hub_model_id: str | None = flag(None, "repository to upload to; default: the folder's name")

    def problems(self) -> list[str]:
        found = [
            f"--{name} must be at least 1, got {getattr(self, name)}"
            for name in COUNTS
            if too_small(self, name)
        ]
        found += [
            f"--{name} must be a finite number of 0 or more"
            for name in NON_NEGATIVE
            if not_rate(self, name)
        ]
        if not self.max_grad_norm > 0:
            found.append(f"--max_grad_norm must be positive, got {self.max_grad_norm}")
        if self.max_train_steps is None and not self.num_train_epochs > 0:
            found.append(f"--num_train_epochs must be positive, got {self.num_train_epochs}")
        found += one_of("mixed_precision", self.mixed_precision, [None, "no", "bf16", "fp16"])
        found += one_of(
            "report_to", self.report_to, ["tensorboard", "wandb", "comet_ml", "all", "none"]
        )
        found += one_of("lr_scheduler", self.lr_scheduler, SCHEDULES)
        if self.use_8bit_adam and self.use_adafactor:
            found.append("--use_8bit_adam and --use_adafactor exclude each other; keep one")
        if not 0 <= self.label_smoothing < 1:
            found.append(f"--label_smoothing must lie in [0, 1), got {self.label_smoothing}")
        return found

    @classmethod
    def free_on_resume(cls) -> set[str]:
        """Settings that a resumed run may change: they do not touch the numbers, or only how many
        there will be. Batch and accumulation are here because a checkpoint compares their product,
        the effective batch."""
        return FREE_ON_RESUME


SCHEDULES = [
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
]
COUNTS = ["train_batch_size", "gradient_accumulation_steps", "max_train_steps", "max_train_samples"]
COUNTS += ["checkpointing_steps", "checkpoints_total_limit", "logging_steps", "lr_num_cycles"]
NON_NEGATIVE = [
    "learning_rate",
    "lr_warmup_steps",
    "adam_weight_decay",
    "desirable_weight",
    "undesirable_weight",
]
NON_NEGATIVE += ["dpop_lambda", "dataloader_num_workers"]
FREE_ON_RESUME = {
    "output_dir",
    "resume_from_checkpoint",
    "train_batch_size",
    "gradient_accumulation_steps",
}
FREE_ON_RESUME |= {
    "max_train_steps",
    "num_train_epochs",
    "checkpointing_steps",
    "checkpoints_total_limit",
}
FREE_ON_RESUME |= {
    "logging_steps",
    "report_to",
    "tracker_name",
    "logging_dir",
    "dataloader_num_workers",
}
FREE_ON_RESUME |= {
    "push_to_hub",
    "hub_token",
    "hub_model_id",
    "gradient_checkpointing",
    "precompute_dir",
}
FREE_ON_RESUME |= {"torch_compile"}


def too_small(settings: BaseSettings, name: str) -> bool:
    """Whether a count is given and below 1."""
    value = getattr(settings, name)
    return value is not None and value < 1


def not_rate(settings: BaseSettings, name: str) -> bool:
    """Whether a value is NaN, infinite or negative."""
    value = getattr(settings, name)
    return not math.isfinite(value) or value < 0


def one_of(name: str, value: Any, known: list[Any]) -> list[str]:
    """A complaint that names the known values and the nearest one, or nothing."""
    if value in known:
        return []
    names = [str(k) for k in known if k is not None]
    return [f"--{name} {value!r} is unknown; known: {', '.join(names)}{nearest(str(value), names)}"]


def nearest(word: str, known: list[str]) -> str:
    """' (did you mean X?)' where something known comes close."""
    match = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {match[0]}?)" if match else ""


class StrictParser(HfArgumentParser):
    """Collects every mistake in the values instead of stopping at the first."""

    def __init__(self, cls: type[BaseSettings], **kwargs: Any) -> None:
        super().__init__(cls, allow_abbrev=False, **kwargs)  # type: ignore[arg-type]
        self.mistakes: list[str] = []
        for name in cls.inert():
            self.add_argument(f"--{name}", nargs="*", default=SUPPRESS, help=SUPPRESS)
        self.add_argument("--config", default=None, help="YAML file of settings; flags override it")

    def add_argument(self, *names: Any, changes: str | None = None, **options: Any) -> Any:
        return super().add_argument(*names, **options)

    def error(self, message: str) -> Any:
        raise UserError(message)

    def _get_value(self, action: Action, arg_string: str) -> Any:
        try:
            return super()._get_value(action, arg_string)  # type: ignore[misc]
        except ArgumentError as mistake:
            self.mistakes.append(str(mistake).removeprefix("argument "))
            return action.default


def yaml_flags(path: str, known: set[str]) -> list[str]:
    """The settings of a YAML file as flags, so that they take the one road that flags take.

    Raises UserError for a file that cannot be read and for every unknown key, naming the nearest
    known one."""
    try:
        content = yaml.safe_load(Path(path).read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--config {path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(
            f"--config {path}: expected 'name: value' lines, found {type(content).__name__}"
        )
    if unknown := [str(key) for key in content if key not in known]:
        raise UserError(
            *(f"{path}: unknown setting {key!r}{nearest(key, sorted(known))}" for key in unknown)
        )
    flags = []
    for key, value in content.items():
        if value not in (None, []):
            flags += [f"--{key}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return flags


def parse(
    cls: type[Settings], argv: list[str], base: str | None = None
) -> tuple[Settings, list[str]]:
    """Settings from ``argv``, over ``--config``, over the YAML file ``base``; and notices about
    inert flags.

    Raises UserError with a line for each unknown flag, unreadable value and impossible setting.
    """
    parser = StrictParser(cls)
    namespace, unknown = parser.parse_known_args(argv)
    known = {field.name for field in dataclasses.fields(cls)}
    flags = [flag for path in (base, namespace.config) if path for flag in yaml_flags(path, known)]
    parser.mistakes.clear()
    namespace, _ = parser.parse_known_args(flags + argv)
    options = sorted(
        name
        for name in parser._option_string_actions
        if name.startswith("--") and "-" not in name[2:]
    )
    mistakes = [
        f"unknown flag {word}{nearest(word.split('=')[0], options)}"
        for word in unknown
        if word[:2] == "--"
    ]
    mistakes += (
        [f"stray word {word!r}" for word in unknown if word[:2] != "--"] if not mistakes else []
    )
    settings = cls(**{name: getattr(namespace, name) for name in known})
    mistakes += parser.mistakes or settings.problems()
    if mistakes:
        raise UserError(*mistakes)
    return settings, [
        f"--{name}: {why}" for name, why in cls.inert().items() if hasattr(namespace, name)
    ]


def as_dict(settings: BaseSettings) -> dict[str, Any]:
    """All settings that may be written down; secrets are not."""
    return {key: value for key, value in dataclasses.asdict(settings).items() if key != "hub_token"}
