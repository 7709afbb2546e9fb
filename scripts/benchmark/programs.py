"""Kinds of programs: each is a function of (target, flags) that loads the program and returns a
function that runs it."""

from __future__ import annotations

import importlib
import json
from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffdpo.cli import run_command
from scripts.benchmark import peers

Program = Callable[[], object]


def command(target: str, flags: list[str]) -> Program:
    """A command of this package."""
    importlib.import_module(f"diffdpo.commands.{target}")  # loading it is not part of the race

    def run() -> None:
        if code := run_command(target, flags):
            raise SystemExit(code)  # a number: the table shows the error line that was printed

    return run


def trl(target: str, flags: list[str]) -> Program:
    """TRL's DPOTrainer with the flags of our text command, on the same rows in the same order."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from diffdpo.draws import epoch_order

    library = importlib.import_module("trl")
    options = trl_flags(flags)
    adapters = trl_adapters(options)
    # As in our command: what is trained is float32, and under a LoRA the base has the run's
    # precision.
    dtype = torch.bfloat16 if options["mixed_precision"] == "bf16" and adapters else torch.float32

    def run() -> None:
        rows = [json.loads(line) for line in Path(options["dataset_name"]).read_text().splitlines()]
        order = epoch_order(int(options["seed"]), 0, len(rows))
        library.DPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(options["model_name_or_path"], dtype=dtype),
            args=library.DPOConfig(**trl_config(options)),
            train_dataset=Dataset.from_list([rows[index] for index in order]),
            processing_class=AutoTokenizer.from_pretrained(options["model_name_or_path"]),
            peft_config=adapters,
        ).train()

    return run


def card(target: str, flags: list[str]) -> Program:
    """Our image command on a pipeline of random weights, made on the device; the target is a shape
    of ``scripts.benchmark.shapes``, with ``-small`` in its tiny form."""
    import torch

    from diffdpo.commands.train_diffusion_dpo import ImageObjects, train
    from diffdpo.config import parse
    from diffdpo.engine.accelerator import sampling_device
    from diffdpo.engine.run_config import IN_MEMORY
    from diffdpo.engine.run_folder import begin
    from diffdpo.image.settings import ImageSettings
    from scripts.benchmark.card_command import SMALL_SIDE
    from scripts.benchmark.shaped import pipeline
    from scripts.benchmark.shapes import BY_NAME, row_of, thin

    name, _, small = target.partition("-")
    words = ["--pretrained_model_name_or_path", IN_MEMORY, "--report_to", "none", *flags]
    settings, _ = parse(ImageSettings, words, "train_diffusion_dpo", "")
    device = sampling_device()
    # What is trained in full is float32; under a LoRA the base has the run's precision.
    half = settings.is_lora and settings.mixed_precision == "bf16"
    dtype = torch.bfloat16 if half else torch.float32
    shape = row_of(name, BY_NAME)
    made = pipeline(thin(shape, SMALL_SIDE) if small else shape, device, dtype)

    def run() -> None:
        train(settings, begin(settings), ImageObjects(pipeline=made))

    return run


def trl_adapters(options: Mapping[str, str]) -> Any:
    """What peft is told of a LoRA; None where the model is trained in full."""
    from peft import LoraConfig

    if "use_peft" not in options:
        return None
    return LoraConfig(
        r=int(options["lora_r"]),
        lora_alpha=int(options["lora_alpha"]),
        target_modules=options["lora_target_modules"],
        task_type="CAUSAL_LM",
    )


def trl_config(options: Mapping[str, str]) -> dict[str, Any]:
    """The settings of TRL's trainer that do what our command does with the same flags."""
    import torch

    return {
        "output_dir": options["output_dir"],
        "max_steps": int(options["max_steps"]),
        "per_device_train_batch_size": int(options["per_device_train_batch_size"]),
        "max_length": int(options["max_length"]),
        "learning_rate": float(options["learning_rate"]),
        "lr_scheduler_type": options["lr_scheduler_type"],
        "seed": int(options["seed"]),
        "bf16": options["mixed_precision"] == "bf16",
        "use_cpu": not torch.cuda.is_available(),
        "use_liger_kernel": "use_liger_kernel" in options,
        "gradient_checkpointing": False,  # as in our command; TRL's default is True
        "train_sampling_strategy": "sequential",  # so that both see the same batches
        "save_strategy": "no",
        "report_to": options["report_to"],
    }


def trl_flags(flags: list[str]) -> dict[str, str]:
    """Values by flag; every flag has one."""
    parser = ArgumentParser()
    for word in flags[::2]:
        parser.add_argument(word)
    return vars(parser.parse_args(flags))


PROGRAMS: dict[str, Callable[[str, list[str]], Program]] = {
    "command": command,
    "text": command,  # beside which no bare network is run
    "script": peers.prepare,
    "trl": trl,
    "card": card,
}
