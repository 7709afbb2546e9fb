"""How accelerate's launcher was told to spread a run: what is refused, and FSDP2 on CPUs."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, is_torch_version

from diffdpo.engine.console import say
from diffdpo.engine.settings import TrainSettings
from diffdpo.errors import UserError

EFFICIENT = "FSDP_CPU_RAM_EFFICIENT_LOADING"  # accelerate's, on where its configuration has FSDP
LOADS_ONCE = "DIFFDPO_LOADS_ONCE"  # the same, for ``load_once``
TO_SET = "set fsdp_version: 2 (FSDP2), as scripts/accelerate/fsdp2.yaml does"


def is_set(name: str) -> bool:
    """Whether the launcher has switched something of accelerate on."""
    return os.environ.get(name, "").lower() in ("1", "true", "yes")


def check_launcher(settings: TrainSettings) -> None:
    """Raises UserError where accelerate is set to spread weights in another way than FSDP2, or to
    FSDP2 with settings that it does not go with."""
    for name, kind in (("DEEPSPEED", "DeepSpeed"), ("MEGATRON_LM", "Megatron-LM")):
        if is_set(f"ACCELERATE_USE_{name}"):
            raise UserError(
                f"accelerate is set to {kind}; diffdpo spreads weights by FSDP2: use_fsdp: true,"
                f" and {TO_SET}"
            )
    if not is_set("ACCELERATE_USE_FSDP"):
        return
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError(f"accelerate is set to FSDP version 1; {TO_SET}")
    if not is_torch_version(">=", "2.6.0"):
        raise UserError(f"FSDP2 needs PyTorch 2.6 or later; this is {torch.__version__}")
    mistakes = mistakes_of_fsdp()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        mistakes += settings.problems_in_shares()
    if mistakes:
        raise UserError(*mistakes)
    # Left on, transformers would read no file of any model but on the first process of each
    # machine, those of text encoders and rewards among them.
    if is_set(EFFICIENT):
        os.environ |= {LOADS_ONCE: "true", EFFICIENT: "false"}


def mistakes_of_fsdp() -> list[str]:
    """A line for each setting of accelerate's that FSDP2 does not go with here."""
    unknown = {
        "FSDP_OFFLOAD_PARAMS": "keeps weights in host memory, which is not done here",
        "FSDP_ACTIVATION_CHECKPOINTING": "is --gradient_checkpointing here",
    }
    mistakes = [
        f"{name}: {what}; switch it off in accelerate's configuration, FSDP2 works without"
        for name, what in unknown.items()
        if is_set(name)
    ]
    if os.environ.get("FSDP_AUTO_WRAP_POLICY", "").upper() == "SIZE_BASED_WRAP":
        mistakes.append(
            "fsdp_auto_wrap_policy SIZE_BASED_WRAP: FSDP2 takes the network's own blocks; leave it"
            " out"
        )
    if os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() in ("0", "false", "no"):
        mistakes.append(
            "fsdp_reshard_after_forward false: FSDP2 puts weights in shares after every pass here;"
            " leave it out"
        )
    return mistakes


def shard_on_cpu(accelerator: Accelerator) -> None:
    """Let accelerate shard on CPUs, where it would go on with DistributedDataParallel, silently.

    Raises UserError where a program has set it to spread weights in another way than FSDP2.
    """
    others = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
    if accelerator.distributed_type in others and not accelerator.is_fsdp2:
        kind = accelerator.distributed_type.value
        raise UserError(f"accelerate is set to {kind}; diffdpo spreads weights by FSDP2: {TO_SET}")
    if not is_set("ACCELERATE_USE_FSDP"):
        return
    if accelerator.num_processes == 1:
        say("sharding     FSDP2 is set, and there is one process: it holds all weights")
    if accelerator.distributed_type == DistributedType.MULTI_CPU:
        # Of both: the one takes the other's values over whenever somebody asks for it.
        for state in (PartialState(), accelerator.state):
            state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
