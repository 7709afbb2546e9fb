"""The programs that a subject can be: each a function of (target, flags) that loads it and returns
what runs it."""

from __future__ import annotations

import importlib
import json
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

from diffdpo.benchmark import peers

Program = Callable[[], object]


def command(target: str, flags: list[str]) -> Program:
    """A command of this package, as its script runs it."""
    main = importlib.import_module(f"diffdpo.commands.{target}").main
    return lambda: main(flags)


def trl(target: str, flags: list[str]) -> Program:
    """TRL's DPOTrainer under the flags of our own text command, on the same rows in the same
    order."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from diffdpo.draws import epoch_order

    library = importlib.import_module("trl")
    asked = trl_flags(flags)

    def run() -> None:
        rows = [json.loads(line) for line in Path(asked["dataset_name"]).read_text().splitlines()]
        order = epoch_order(int(asked["seed"]), 0, len(rows))
        config = library.DPOConfig(
            output_dir=asked["output_dir"],
            max_steps=int(asked["max_steps"]),
            per_device_train_batch_size=int(asked["per_device_train_batch_size"]),
            max_length=int(asked["max_length"]),
            learning_rate=float(asked["learning_rate"]),
            lr_scheduler_type=asked["lr_scheduler_type"],
            seed=int(asked["seed"]),
            bf16=asked["mixed_precision"] == "bf16",
            use_cpu=not torch.cuda.is_available(),
            gradient_checkpointing=False,  # as in our command; TRL's default is True
            train_sampling_strategy="sequential",  # so that both see the same batches
            save_strategy="no",
            report_to=asked["report_to"],
        )
        library.DPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(
                asked["model_name_or_path"], dtype=torch.float32
            ),
            args=config,
            train_dataset=Dataset.from_list([rows[index] for index in order]),
            processing_class=AutoTokenizer.from_pretrained(asked["model_name_or_path"]),
        ).train()

    return run


def trl_flags(flags: list[str]) -> dict[str, str]:
    """Flags by name; all of them have one value."""
    parser = ArgumentParser()
    for word in flags[::2]:
        parser.add_argument(word)
    return vars(parser.parse_args(flags))


PROGRAMS: dict[str, Callable[[str, list[str]], Program]] = {
    "command": command,
    "script": peers.prepare,
    "trl": trl,
}
