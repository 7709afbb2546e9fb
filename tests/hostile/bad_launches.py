"""Ways of accelerate to spread weights that are not FSDP2, and settings that do not go with it."""

from __future__ import annotations

from tests.commands import image_runs
from tests.hostile.case import Bad, Material
from tests.text import runs

FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "WORLD_SIZE": "2", "RANK": "0"}


def text(**changes: object):
    def make(material: Material) -> list[str]:
        return runs.flags(material.lm, material.texts["pairs"], material.folder / "run", **changes)

    return make


def images(**changes: object):
    def make(material: Material) -> list[str]:
        model, out = material.models(), material.folder / "run"
        return image_runs.flags(model, material.pairs, out, **changes)

    return make


def other(name: str, line: str, **environment: str) -> Bad:
    """A way of spreading weights that accelerate is set to."""
    return Bad(name, "train_text_dpo", text(), line, environment=environment)


def in_shares(line: str, make=text, **changes: object) -> Bad:
    """A setting that does not go with FSDP2."""
    command = "train_text_dpo" if make is text else "train_diffusion_dpo"
    name = f"{' '.join(f'{k} {v}' for k, v in changes.items())} in shares ({command})"
    return Bad(name, command, make(**changes), line, environment=FSDP2)


LEAVE_OUT = r": not with weights in shares \(FSDP2\); leave it out$"

CASES = [
    other("FSDP without a version", ".*FSDP version 1; set.*FSDP2", ACCELERATE_USE_FSDP="true"),
    other("FSDP1", ".*FSDP version 1; set.*FSDP2", ACCELERATE_USE_FSDP="true", FSDP_VERSION="1"),
    other("DeepSpeed", ".*DeepSpeed; .*FSDP2", ACCELERATE_USE_DEEPSPEED="true"),
    other("Megatron", ".*Megatron-LM; .*FSDP2", ACCELERATE_USE_MEGATRON_LM="true"),
    other("weights on the host", "FSDP_OFFLOAD_PARAMS: ", **FSDP2, FSDP_OFFLOAD_PARAMS="true"),
    other(
        "accelerate's checkpointing of activations",
        "FSDP_ACTIVATION_CHECKPOINTING: is --gradient_checkpointing here",
        **FSDP2,
        FSDP_ACTIVATION_CHECKPOINTING="true",
    ),
    other(
        "wrapped by size",
        "fsdp_auto_wrap_policy SIZE_BASED_WRAP: ",
        **FSDP2,
        FSDP_AUTO_WRAP_POLICY="SIZE_BASED_WRAP",
    ),
    other(
        "whole after a pass",
        "fsdp_reshard_after_forward false: ",
        **FSDP2,
        FSDP_RESHARD_AFTER_FORWARD="false",
    ),
    in_shares("--torch_compile" + LEAVE_OUT, torch_compile=True),
    in_shares("--mixed_precision fp16" + LEAVE_OUT, mixed_precision="fp16"),
    in_shares("--use_adafactor" + LEAVE_OUT, use_adafactor=True),
    in_shares("--use_adafactor" + LEAVE_OUT, images, use_adafactor=True),
    in_shares("--use_8bit_adam" + LEAVE_OUT, use_8bit_adam=True),
    in_shares("--use_paged_adam" + LEAVE_OUT, images, use_paged_adam=True),
    in_shares("--offload: FSDP2 holds", images, offload=True),
    in_shares("--base_precision fp8: .*bf16.*int8", images, base_precision="fp8"),
    in_shares("--base_precision nf4: .*bf16.*int8", base_precision="nf4"),
    in_shares("--load_in_4bit: .*FSDP2.*--base_precision int8", load_in_4bit=True),
]
