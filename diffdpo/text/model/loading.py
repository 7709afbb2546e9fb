"""Loads a language model and its tokenizer from a folder or the hub, and proves that every weight
has come from there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import load_peft_weights
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import find_adapter_config_file

from diffdpo.data.paths import LFS, is_path, is_pointer
from diffdpo.engine.loaded import check_finite, check_keys, some
from diffdpo.engine.low_bits import check_bits, compute_in_bfloat16, loading_options
from diffdpo.errors import UserError, short
from diffdpo.text.settings import TextModelSettings
from diffdpo.text.tokens.template import with_template
from diffdpo.text.vision.models import auto_class

ADAPTER = "default"
ROUTERS = ("gate", "router", "shared_expert_gate")  # as transformers' models call them
PREFIX = "base_model.model."  # that peft puts before the names in an adapter's file
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
OTHER_SIZES = "ignore_mismatched_sizes"  # in transformers' error for weights that do not fit
PICKLED = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class Storage:
    """How a model is held that is frozen under adapters: in ``dtype``, its layers in ``bits``, for
    which ``flag`` has asked. ``adapted``: it gets adapters if it has none."""

    dtype: torch.dtype
    bits: str | None = None
    four_bits: Mapping[str, Any] = field(default_factory=dict)
    flag: str = ""
    adapted: bool = True


def load_model(
    name: str, flag: str, settings: TextModelSettings, frozen: Storage | None = None
) -> PreTrainedModel:
    """A language or image–text model in float32, with its adapter where the folder holds one.

    The model under an adapter, that one or one to come, is loaded as ``frozen`` says.

    Raises UserError where there is none, where weights are missing, left over or not finite, where
    they are pickled, and where a model without adapters is to be in few bits.
    """
    place, options = f"--{flag} {name}", settings.hub_options
    try:
        base = base_of(name, options)
        if frozen and not (base or frozen.adapted):
            if frozen.bits:
                raise UserError(f"{frozen.flag} is about a LoRA; add --use_peft, or leave it out")
            frozen = None
        network = load_whole(base or name, place, settings, frozen)
        if base:
            attach(network, name, place, options)
    except UserError:
        raise
    # Configurations and files may hold anything, and every library has errors of its own for it.
    except Exception as error:
        raise UserError(*reasons(name, place, error)) from error
    check_finite(network, place)
    return network


def load_whole(
    name: str, place: str, settings: TextModelSettings, frozen: Storage | None
) -> PreTrainedModel:
    """The model in a folder that is no adapter's alone. Raises UserError as ``load_model`` does."""
    options = dict(settings.hub_options)
    if settings.attn_implementation:
        options["attn_implementation"] = settings.attn_implementation
    options["dtype"] = frozen.dtype if frozen else torch.float32
    bits = quantised(name, frozen, settings) if frozen and frozen.bits else {}
    config = AutoConfig.from_pretrained(name, **settings.hub_options)
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"{place}: has an encoder and a decoder; only causal models are trained")
    loaded: Any = auto_class(config).from_pretrained(
        name, use_safetensors=True, output_loading_info=True, **bits, **options
    )
    network: PreTrainedModel = loaded[0]
    check_keys(place, loaded[1].get("missing_keys", ()), loaded[1].get("unexpected_keys", ()))
    return compute_in_bfloat16(network) if bits else network


def quantised(name: str, frozen: Storage, settings: TextModelSettings) -> dict[str, Any]:
    """The arguments of ``from_pretrained`` with which a model's layers are quantised as they are
    read, but for its output head and its routers."""
    check_bits(frozen.bits, frozen.flag)
    config = AutoConfig.from_pretrained(name, **settings.hub_options)
    if getattr(config, "quantization_config", None):
        raise UserError(f"{frozen.flag}: {short(name)} is quantised already; leave the flag out")
    with torch.device("meta"):
        network = auto_class(config).from_config(
            config, trust_remote_code=settings.trust_remote_code
        )
    whole = kept_whole(network)
    names = [name for name, module in network.named_modules() if module in whole]
    return loading_options(frozen.bits, transformers, names, **frozen.four_bits)


def kept_whole(network: PreTrainedModel) -> list[nn.Module]:
    """The layers that are never in few bits: the output head, from which scores are computed, and
    the routers of a mixture of experts, where rounding would change which experts run."""
    head = network.get_output_embeddings()
    modules = network.named_modules()
    return [m for name, m in modules if m is head or name.rpartition(".")[2] in ROUTERS]


def base_of(name: str, options: dict[str, Any]) -> str | None:
    """The model that an adapter's folder names; None for a folder that holds a whole model.

    Raises UserError where the folder that it names is not there.
    """
    where = {key: options[key] for key in ("revision", "cache_dir")}
    file = find_adapter_config_file(name, **where)
    # A folder with a configuration of its own is a model, with or without an adapter beside it.
    if file is None or (Path(name) / "config.json").exists():
        return None
    base = json.loads(Path(file).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise UserError(f"{name}: its adapter_config.json names no base model")
    if is_path(base) and not Path(base).is_dir():
        raise UserError(
            f"{name}: its adapter_config.json names the base model {short(base)}, and there is no"
            " such folder here; put the model's place in there"
        )
    return base


def attach(
    network: PreTrainedModel,
    name: str,
    place: str,
    options: dict[str, Any],
    adapter: str = ADAPTER,
) -> None:
    """Put the adapter in folder ``name`` on its base model, by the name ``adapter``.

    Raises UserError where the weights of the two do not belong together.
    """
    revision = {key: options[key] for key in ("revision", "cache_dir")}
    if Path(name).is_dir() and not (Path(name) / "adapter_model.safetensors").exists():
        raise FileNotFoundError("no adapter_model.safetensors")
    network.load_adapter(name, adapter_name=adapter, adapter_kwargs=revision)
    # What is trained is float32, whatever the precision of the layer that it is a copy of.
    for weight in (w for n, w in network.named_parameters() if adapter in n.split(".")):
        weight.data = weight.data.float()
    stored = load_peft_weights(name, device="cpu", **revision)
    # Once more by peft itself: some versions of transformers do not find DoRA's magnitudes.
    stored = {key.removeprefix(PREFIX): weight for key, weight in stored.items()}
    set_peft_model_state_dict(network, dict(stored), adapter_name=adapter)
    own = get_peft_model_state_dict(network, adapter_name=adapter, save_embedding_layers=False)
    loaded = {key.removeprefix(PREFIX): weight for key, weight in own.items()}
    # Embeddings that an adapter's file brings along are weights of the base model.
    loaded |= {key: weight for key, weight in network.state_dict().items() if key in stored}
    check_keys(place, set(loaded) - set(stored), set(stored) - set(loaded))
    other = [key for key in stored if not torch.equal(loaded[key], stored[key].to(loaded[key]))]
    if other:
        raise UserError(f"{place}: {len(other)} of its weights cannot be loaded ({some(other)})")


def reasons(name: str, place: str, error: Exception) -> list[str]:
    """The line for a model that cannot be loaded; for pickled weights, how they are converted."""
    folder = Path(name)
    files = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    pickled = [file for file in files if file.endswith(PICKLED) and file != "training_args.bin"]
    if pickled and not any(file.endswith(".safetensors") for file in files):
        return [
            f"{place}: its weights are pickled ({short(pickled[0])}), which is not read; if you"
            f' trust them: python -c "from transformers import AutoModelForCausalLM as M;'
            f" M.from_pretrained('{name}').save_pretrained('{name}')\""
        ]
    reason = damaged_file(folder) or short(error, 200) or type(error).__name__
    if OTHER_SIZES in reason:  # what transformers says then names no weight and no file
        reason = "its configuration gives weights other sizes than they have in its files"
    return [f"{place}: cannot be loaded ({reason})"]


def damaged_file(folder: Path) -> str | None:
    """The first file of a model's folder that is not whole, with why; None where all are. What the
    libraries raise for one does not name it."""
    for file in sorted(folder.iterdir()) if folder.is_dir() else []:
        try:
            if file.suffix == ".safetensors" and is_pointer(file):
                return f"{file.name} {LFS}"
            if file.suffix == ".safetensors":
                with safe_open(file, "pt"):
                    pass
            elif file.suffix == ".json":
                json.loads(file.read_text(encoding="utf-8"))
        except SafetensorError as error:
            return f"{file.name} is not whole, fetch it once more: {short(error)}"
        except (OSError, ValueError) as error:
            return f"{file.name}: {short(error)}"
    return None


def load_tokenizer(
    network: PreTrainedModel, settings: TextModelSettings
) -> PreTrainedTokenizerBase:
    """The model's tokenizer, or that of the model under an adapter, with the chat template that is
    named. Raises UserError where there is none, or where one of them cannot be read."""
    name = str(settings.model_name_or_path)
    return with_template(find_tokenizer(name, "model_name_or_path", network, settings), settings)


def sources_of(name: str, network: PreTrainedModel) -> list[str]:
    """Where a model's tokenizer may lie: in its own folder, or that of the model under an
    adapter."""
    # The folder's own first: the tokenizer saved with an adapter may differ from its base model's.
    adapters = getattr(network, "peft_config", {}).values()
    return [name, *(str(config.base_model_name_or_path) for config in adapters)]


def find_tokenizer(
    name: str, flag: str, network: PreTrainedModel, settings: TextModelSettings
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model by its name; see ``load_tokenizer``."""
    names = sources_of(name, network)
    for source in names:
        try:
            return AutoTokenizer.from_pretrained(source, **settings.hub_options)
        except Exception as error:  # of every kind: its files may hold anything
            if any((Path(source) / file).exists() for file in TOKENIZER_FILES):
                reason = short(error, 120) or type(error).__name__
                raise UserError(
                    f"--{flag} {source}: its tokenizer cannot be read ({reason})"
                ) from error
    raise UserError(f"--{flag} {names[0]}: no tokenizer there")
