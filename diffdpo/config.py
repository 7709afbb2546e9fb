"""Settings: typed dataclasses, every flag defined once; strict reading of flags and YAML files."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

import yaml

from diffdpo.errors import UserError
from diffdpo.flags import StrictParser, flag, inner, nearest, one_of, optional

Settings = TypeVar("Settings", bound="BaseSettings")


@dataclass(frozen=True)
class Layer:
    """Settings from a file, used where the user gives no others; with the name of the file."""

    source: str
    content: Mapping[str, Any]
    heading: str | None = None  # of the line that lists the settings taken from here; None: no line


@dataclass(frozen=True)
class BaseSettings:
    """The base of every command's settings. ``problems`` lists all mistakes at once."""

    def problems(self) -> list[str]:
        """One line for every setting that cannot work."""
        return [
            line
            for field in dataclasses.fields(self)
            if "choices" in field.metadata and getattr(self, field.name) is not None
            for line in one_of(field.name, getattr(self, field.name), field.metadata["choices"])
        ]

    @classmethod
    def beneath(cls, given: Mapping[str, Any]) -> Layer | None:
        """Settings from a file that hold where neither a flag nor ``--config`` sets them.

        ``given`` are the settings from flags and ``--config``. None: there is no such file.
        """
        return None

    @classmethod
    def inert(cls) -> dict[str, str]:
        """Flags of other programs that are accepted without effect, each with the reason.

        Launch commands written for those programs run as they are, and say what was ignored.
        """
        return {}


SCHEDULES = ["linear", "cosine", "cosine_with_restarts", "polynomial"]
SCHEDULES += ["constant", "constant_with_warmup"]
PRECISIONS = ["no", "bf16", "fp16"]
TRACKERS = ["tensorboard", "wandb", "comet_ml", "all", "none"]


@dataclass(frozen=True)
class TrainSettings(BaseSettings):
    """The settings of training that images and text share."""

    output_dir: str = flag(
        "runs/train", "folder of this run: metrics, checkpoints, result", group="training"
    )
    seed: int = flag(
        0,
        "all randomness is a function of this number, the pair and the visit",
        group="training",
        changes="draws",
    )
    train_batch_size: int = flag(4, "pairs per process and micro-batch", group="training")
    gradient_accumulation_steps: int = flag(1, "micro-batches per optimizer step", group="training")
    num_train_epochs: float = flag(
        1.0, "passes over the pairs, where max_train_steps is not given", group="training"
    )
    max_train_steps: int | None = flag(
        None, "optimizer steps; overrides num_train_epochs", group="training"
    )
    max_train_samples: int | None = flag(
        None, "use only this many pairs, picked by the seed", group="data"
    )

    loss_type: str = flag("sigmoid", "a row of diffdpo.losses.LOSSES", group="loss")
    label_smoothing: float = flag(
        0.0, "share of labels believed flipped; 0: the loss's own default", group="loss"
    )
    dpop_lambda: float = flag(50.0, "dpop: charge for a chosen item made less likely", group="loss")
    desirable_weight: float = flag(1.0, "kto: weight of desirable items", group="loss")
    undesirable_weight: float = flag(1.0, "kto: weight of undesirable items", group="loss")

    learning_rate: float = flag(1e-5, "peak rate; 0 is a dry run", group="optimizer")
    scale_lr: bool = flag(
        False, "multiply the rate by processes x accumulation x batch size", group="optimizer"
    )
    lr_scheduler: str = flag(
        "constant", "a schedule of diffusers.optimization", group="optimizer", choices=SCHEDULES
    )
    lr_warmup_steps: int = flag(
        0, "steps of linear warm-up, for schedules that have one", group="optimizer"
    )
    lr_num_cycles: int = flag(1, "hard resets of cosine_with_restarts", group="optimizer")
    lr_power: float = flag(1.0, "power of the polynomial schedule", group="optimizer")
    use_8bit_adam: bool = flag(
        False, "AdamW with 8-bit state, where bitsandbytes is installed", group="optimizer"
    )
    use_adafactor: bool = flag(False, "Adafactor in place of AdamW: less memory", group="optimizer")
    adam_beta1: float = flag(0.9, "AdamW's first decay", group="optimizer")
    adam_beta2: float = flag(0.999, "AdamW's second decay", group="optimizer")
    adam_weight_decay: float = flag(1e-2, "decoupled weight decay", group="optimizer")
    adam_epsilon: float = flag(1e-8, "AdamW's epsilon", group="optimizer")
    max_grad_norm: float = flag(1.0, "clip the gradient to this norm", group="optimizer")

    precompute_dir: str = flag(
        "~/.cache/diffdpo",
        "where what is computed once is kept for later runs",
        aliases=["--reference_cache_dir"],
        group="caching",
    )
    mixed_precision: str | None = flag(
        None,
        "no, bf16 or fp16; left out: what accelerate is set to",
        group="training",
        choices=PRECISIONS,
        changes="scores",
    )
    gradient_checkpointing: bool = flag(
        False, "recompute activations: less memory, slower", group="training"
    )
    torch_compile: bool = flag(
        False, "compile the network: a slow first step, faster ones after it", group="training"
    )
    allow_tf32: bool = flag(
        False, "TF32 matrix products on Ampere and later GPUs", group="training", changes="scores"
    )
    deterministic: bool = flag(
        False,
        "only algorithms that repeat bit for bit: slower on a GPU",
        group="training",
        changes="scores",
    )
    max_bad_steps: int = flag(
        5,
        "stop after so many steps in a row whose loss or gradient is not finite",
        group="training",
    )
    dataloader_num_workers: int = flag(0, "worker processes that decode data", group="training")

    checkpointing_steps: int = flag(500, "save a checkpoint every so many steps", group="logging")
    checkpoints_total_limit: int | None = flag(
        None, "keep only the newest N checkpoints", group="logging"
    )
    resume_from_checkpoint: str | None = flag(
        None, "a checkpoint's folder, or 'latest'", group="logging"
    )

    logging_steps: int = flag(
        10, "write out the collected metrics every so many steps", group="logging"
    )
    report_to: str = flag(
        "tensorboard",
        "tensorboard, wandb, comet_ml, all or none",
        group="logging",
        choices=TRACKERS,
    )
    tracker_name: str = flag(
        "diffdpo", "project in the tracker", aliases=["--tracker_project_name"], group="logging"
    )
    logging_dir: str = flag("logs", "the tracker's folder inside output_dir", group="logging")
    push_to_hub: bool = flag(False, "upload the result at the end", group="logging")
    hub_token: str | None = flag(
        None, "token for the upload; never written to config.yaml", group="logging"
    )
    hub_model_id: str | None = flag(
        None, "repository to upload to; default: the folder's name", group="logging"
    )

    def problems(self) -> list[str]:
        lines = [*super().problems(), *at_least(self, COUNTS)]
        lines += [
            f"--{name} must be at most {MOST:,}, got {getattr(self, name):,}"
            for name in ("train_batch_size", "gradient_accumulation_steps")
            if getattr(self, name) > MOST
        ]
        lines += [
            f"--{name} must be a finite number of 0 or more"
            for name in NON_NEGATIVE
            if not 0 <= getattr(self, name) < math.inf
        ]
        # "not x > 0" instead of "x <= 0" is also true of NaN, here and below.
        if not self.max_grad_norm > 0:
            lines.append(f"--max_grad_norm must be positive, got {self.max_grad_norm}")
        if self.max_train_steps is None and not self.num_train_epochs > 0:
            lines.append(f"--num_train_epochs must be positive, got {self.num_train_epochs}")
        if self.use_8bit_adam and self.use_adafactor:
            lines.append("--use_8bit_adam and --use_adafactor exclude each other; keep one")
        if not 0 <= self.label_smoothing < 1:
            lines.append(f"--label_smoothing must lie in [0, 1), got {self.label_smoothing}")
        return lines

    @property
    def precision(self) -> str | None:
        """The requested precision; None leaves the choice to accelerate."""
        return self.mixed_precision

    @classmethod
    def free_on_resume(cls) -> set[str]:
        """The settings that a resumed run may change.

        They do not touch the numbers of a step, only how many steps there will be. Where the
        schedule spans the whole run, another length moves the rates as well, and the run says so.
        """
        return FREE_ON_RESUME


COUNTS = ["train_batch_size", "gradient_accumulation_steps", "max_train_steps", "max_train_samples"]
COUNTS += ["checkpointing_steps", "checkpoints_total_limit", "logging_steps", "lr_num_cycles"]
COUNTS += ["max_bad_steps"]
MOST = 2**16  # rows of a step that are listed, and read, before the step begins
NON_NEGATIVE = [
    "learning_rate",
    "lr_warmup_steps",
    "adam_weight_decay",
    "desirable_weight",
    "undesirable_weight",
]
NON_NEGATIVE += ["dpop_lambda", "dataloader_num_workers"]
# Batch size and accumulation are among them: what must stay the same is their product, the
# effective batch, which a checkpoint records on its own.
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
FREE_ON_RESUME |= {"torch_compile", "max_bad_steps"}


def at_least(settings: BaseSettings, names: Iterable[str], least: int = 1) -> list[str]:
    """A line for each of the named settings that is given and below ``least``."""
    values = {name: getattr(settings, name) for name in names}
    wanted = f"at least {least}" if least else "0 or more"
    return [
        f"--{name} must be {wanted}, got {value}"
        for name, value in values.items()
        if value is not None and value < least
    ]


def checked(settings: Settings) -> Settings:
    """The settings as they are. Raises UserError with a line for each that cannot work."""
    if mistakes := settings.problems():
        raise UserError(*mistakes)
    return settings


def parse(
    cls: type[Settings], argv: list[str], prog: str | None = None, about: str | None = None
) -> tuple[Settings, list[str]]:
    """Settings from the flags in ``argv``, and notices to print.

    Flags come first, then the file ``--config``, then ``cls.beneath``, then the defaults. ``prog``
    and ``about`` stand at the top of --help.

    Raises UserError with a line for each unknown flag, unreadable value and impossible setting.
    """
    parser = StrictParser(cls, prog, about)
    given, mistakes = parser.read(argv)
    notices = [f"--{name}: {reason}" for name, reason in cls.inert().items() if name in given]
    settings, more = complete(cls, parser, given, mistakes)
    return settings, notices + more


def settings_of(cls: type[Settings], **values: Any) -> Settings:
    """Settings from Python values, checked as those of the command line are.

    ``config`` names a YAML file of settings that hold where no value is given.

    Raises UserError with a line for each unknown name and impossible value.
    """
    parser, mistakes = StrictParser(cls), list[str]()
    config = {name: values.pop(name) for name in ("config",) if name in values}
    given = read_layer(parser, cls, Layer("settings", values), mistakes)
    settings, _ = complete(cls, parser, config | given, mistakes)
    return settings


def complete(
    cls: type[Settings], parser: StrictParser, given: dict[str, Any], mistakes: list[str]
) -> tuple[Settings, list[str]]:
    """Fill up the ``given`` settings from ``--config``, ``cls.beneath`` and defaults; with notices.

    Raises UserError with the ``mistakes`` so far and those met here.
    """
    notices: list[str] = []
    try:
        if path := given.get("config"):
            content = read_yaml(path, "--config ")
            given = {**read_layer(parser, cls, Layer(path, content), mistakes), **given}
        if beneath := cls.beneath(given):
            lower = read_layer(parser, cls, beneath, mistakes)
            notices = layer_notice(beneath, {k: v for k, v in lower.items() if k not in given})
            given = {**lower, **given}
    except UserError as error:
        # A file cannot be read. What it would have set is unknown, so checking values would only
        # add mistakes that are none.
        raise UserError(*mistakes, *error.mistakes) from error
    names = [field.name for field in dataclasses.fields(cls) if field.name in given]
    settings = cls(**{name: given[name] for name in names})
    if mistakes := mistakes + settings.problems():
        raise UserError(*mistakes)
    return settings, notices


def read_yaml(path: str, prefix: str = "") -> dict[str, Any]:
    """The content of a YAML file of settings. Raises UserError where it cannot be read."""
    try:
        content = yaml.safe_load(Path(path).read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{prefix}{path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UserError(f"{prefix}{path}: expected 'name: value' lines, found {kind}")
    return content


def read_layer(
    parser: StrictParser, cls: type[BaseSettings], layer: Layer, mistakes: list[str]
) -> dict[str, Any]:
    """The settings in a YAML file, read by the same parser as flags; adds to ``mistakes``."""
    fields, hints = {field.name: field for field in dataclasses.fields(cls)}, get_type_hints(cls)
    settings: dict[str, Any] = {}
    for key, value in layer.content.items():
        name = str(key)
        if name not in fields:
            hint = nearest(name, sorted(fields))
            mistakes.append(f"{layer.source}: unknown setting {name!r}{hint}")
        elif reason := misfit(value, hints[name], "choices" in fields[name].metadata):
            mistakes.append(f"{layer.source}: {name} {reason}")
        elif value in (None, []):
            settings[name] = value
        else:
            # As flags, so that one parser decides what a word means, wherever it stands.
            words = [f"--{name}={as_word(value)}"]
            if isinstance(value, list):
                words = [f"--{name}", *map(as_word, value)]
            given, unread = parser.read(words)
            settings |= given
            mistakes += unread
    return settings


def misfit(value: Any, hint: Any, is_choice: bool) -> str:
    """The reason why a YAML value does not fit the type ``hint``; '' where it may be read."""
    kind = inner(hint)
    many = get_origin(kind) is list
    if value is None:
        return "" if optional(hint) else "has no value; give one or leave the line out"
    if isinstance(value, dict) or (isinstance(value, list) and not many):
        return f"is {'nested' if isinstance(value, dict) else 'a list'}; one value is wanted"
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, (dict, list)) or item is None for item in items):
        return "is a list of something other than plain values"
    texts = kind is str or (many and kind.__args__[0] is str)
    # YAML 1.1 reads no, off and yes as booleans; a word is meant where words are listed.
    if texts and not is_choice and any(isinstance(item, bool) for item in items):
        return f"is the boolean {str(items[0]).lower()} in YAML; put the word in quotes"
    return ""


def as_word(value: Any) -> str:
    """A plain YAML value as a word on the command line."""
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def layer_notice(layer: Layer, settings: Mapping[str, Any]) -> list[str]:
    """The line that lists the settings taken from a layer; none where there is nothing to list."""
    shown = [f"{name} {value}" for name, value in settings.items()]
    return [f"{layer.heading:<12} {', '.join(shown)}"] if layer.heading and shown else []


def as_dict(settings: BaseSettings) -> dict[str, Any]:
    """All settings by name, without secrets: this is what config.yaml and model cards show."""
    return {key: value for key, value in dataclasses.asdict(settings).items() if key != "hub_token"}
