"""ADD A ROW: the language models whose shapes are measured on a card, with the numbers of the
published configurations and random weights, on preference rows with the lengths of a real set.

They are read from a folder, by our command and by TRL alike.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from diffdpo.engine.accelerator import sampling_device
from scripts.benchmark.size import FULL, SMALL, Size, Work
from scripts.benchmark.subjects import CARD_VARIANTS, TEXT_RATE, Subject, has_liger, has_trl
from scripts.benchmark.text_work import make_rows

# Of a row, prompt and completion together: TRL's default. Few rows are cut.
MAX_LENGTH = 1024
# Of a shape's data: with the command's defaults no program reads a row twice, so that all see the
# same batches whatever order their later epochs have.
STEPS_OF_ROWS = 24
LORA = ("--use_peft", "true", "--lora_r", "16", "--lora_alpha", "32",
        "--lora_target_modules", "all-linear")  # fmt: skip
QWEN: dict[str, Any] = {"model_type": "qwen2", "vocab_size": 151_936, "tie_word_embeddings": True}


@dataclass(frozen=True)
class TextShape:
    """A language model and how it is trained here."""

    name: str
    network: dict[str, Any]  # of its configuration
    pairs: int  # a step; as many as a card of 80 GB is sure to hold, for TRL too
    size: Size = replace(FULL, max_length=MAX_LENGTH)

    def work(self, folder: Path) -> Work:
        """Its folders."""
        rows = replace(self.size, rows=STEPS_OF_ROWS * self.pairs)
        return Work(folder / self.name, replace(rows, vocabulary=self.network["vocab_size"]))

    def config(self) -> Any:
        """The configuration, with the marks of our tokenizer."""
        return AutoConfig.for_model(
            **self.network,
            max_position_embeddings=2 * self.size.max_length,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
        )

    def thin(self) -> TextShape:
        """The same on next to no weights and short rows."""
        few = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "vocab_size": 600,
        }
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
        return replace(self, network=self.network | few | heads, pairs=2, size=SMALL)


TEXT_SHAPES = [
    TextShape(
        "qwen05b",
        QWEN
        | {
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
        },
        pairs=8,
    ),
    TextShape(
        "qwen15b",
        QWEN
        | {
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
        },
        pairs=4,
    ),
]


def text_rows(shape: TextShape, small: bool, steps: int, folder: Path) -> list[Subject]:
    """LoRA and in full, ours with the reference live, with its rows packed, with prompts shared in
    them, and with the reference stored, TRL beside it where it is installed."""
    work, precision = shape.work(folder), "no" if small else "bf16"
    flags = (
        *("--model_name_or_path", str(work.model), "--dataset_name", str(work.rows)),
        *("--max_steps", str(steps), "--per_device_train_batch_size", str(shape.pairs)),
        *("--max_length", str(shape.size.max_length), "--seed", "0"),
        *("--learning_rate", TEXT_RATE, "--lr_scheduler_type", "constant"),
        *("--report_to", "none", "--mixed_precision", precision),
    )
    subjects = []
    for kind, more in (("lora", LORA), ("full", ())):
        for variant in ("live", "packed", "flexible", "stored"):
            name = f"{shape.name}-{kind}-{variant}"
            words = (*flags, *more, *CARD_VARIANTS[variant])
            cache = name if variant == "stored" else None
            subjects.append(Subject(name, name, "text", "train_text_dpo", words, cache))
        for variant, words in trl_variants().items():
            name = f"{shape.name}-{kind}-{variant}"
            subjects.append(Subject(name, name, "trl", "DPOTrainer", (*flags, *more, *words)))
    return subjects


def trl_variants() -> dict[str, tuple[str, ...]]:
    """TRL's rows, and their further flags: as it is, and with Liger's kernels for layers, each
    where it is installed."""
    variants: dict[str, tuple[str, ...]] = {"trl": (), "trl-liger": ("--use_liger_kernel", "true")}
    there = {"trl": has_trl(), "trl-liger": has_trl() and has_liger()}
    return {name: words for name, words in variants.items() if there[name]}


def make_text_data(shape: TextShape, folder: Path) -> None:
    """Tokenizer and rows, for the lengths that the work is counted from."""
    work = shape.work(folder)
    if not work.rows.exists():
        work.folder.mkdir(parents=True, exist_ok=True)
        make_rows(work)


def make_text_model(shape: TextShape, folder: Path) -> None:
    """The model in bfloat16 in its folder, made on the card where there is one."""
    torch.manual_seed(0)
    with sampling_device():
        model = AutoModelForCausalLM.from_config(shape.config(), dtype=torch.bfloat16)
    model.save_pretrained(shape.work(folder).model)


def text_work_of(shape: TextShape, folder: Path) -> tuple[float, int, float]:
    """Means over the completions, each behind its prompt: floating-point operations of a forward
    pass, with the head on the completion alone and of the attention the half that is causal;
    weights; and of a pair the tokens."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape.config())
    head: Any = model.get_output_embeddings()
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    body, config = sum(layer.weight.numel() for layer in layers), shape.config()
    flops = tokens = 0
    sizes = completions(shape.work(folder))
    for prompt, completion in sizes:
        length = prompt + completion
        flops += 2 * (body * length + head.weight.numel() * completion)
        flops += 2 * config.num_hidden_layers * config.hidden_size * length**2
        tokens += length
    weights = sum(weight.numel() for weight in model.parameters())
    return flops / len(sizes), weights, 2 * tokens / len(sizes)


def completions(work: Work) -> list[tuple[int, int]]:
    """Tokens of every prompt with each of its completions."""
    tokens: Any = AutoTokenizer.from_pretrained(work.model)
    rows = [json.loads(line) for line in work.rows.read_text().splitlines()]
    sizes = {
        side: [len(ids) for ids in tokens([row[side] for row in rows])["input_ids"]]
        for side in ("prompt", "chosen", "rejected")
    }
    return [
        pair for side in ("chosen", "rejected")
        for pair in zip(sizes["prompt"], sizes[side], strict=True)
    ]  # fmt: skip
