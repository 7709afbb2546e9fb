"""The rows of ``scripts/growth.py``: a few contents, repeated by Arrow, so that a million take
seconds."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
POOL = 64  # different pictures, or texts
PER_PROMPT = 14  # rows with one prompt, as in Pick-a-Pic v2
SIDE = 16  # pixels: only the bookkeeping is to count
PARTS = 8  # files


def make_rows(kind: str, count: int, folder: Path) -> Path:
    """A folder of parquet files with ``count`` rows; for texts also the model in ``model``."""
    rows = folder / "rows"
    rows.mkdir(parents=True)
    if kind == "image":
        columns = pictures(count)
    else:
        columns = texts(count, int(kind.split("-")[1]), make_model(folder / "model"))
    table = pa.table(columns)
    part = -(-count // PARTS)
    for index in range(PARTS):
        piece = table.slice(index * part, part)
        pq.write_table(piece, rows / f"train-{index:05d}-of-{PARTS:05d}.parquet")
    return rows


def pictures(count: int) -> dict[str, pa.Array]:
    """Pick-a-Pic's columns, the winner on either side in turn."""
    random = np.random.default_rng(0)
    pool = pa.array([jpeg(random) for _ in range(POOL)], type=pa.binary())
    first = np.arange(count) % POOL
    label = np.arange(count) % 2
    return {
        "jpg_0": pool.take(pa.array(first)),
        "jpg_1": pool.take(pa.array((first + 1 + np.arange(count) // POOL % (POOL - 1)) % POOL)),
        "caption": numbered("picture number ", np.arange(count) // PER_PROMPT),
        "label_0": pa.array(label, type=pa.int64()),
        "label_1": pa.array(1 - label, type=pa.int64()),
    }


def jpeg(random: np.random.Generator) -> bytes:
    """A tiny picture."""
    buffer = io.BytesIO()
    pixels = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=50)
    return buffer.getvalue()


def texts(count: int, tokens: int, tokenizer: Any) -> dict[str, pa.Array]:
    """Prompts and two completions, ``tokens`` in all: 3 of 10 in the prompt."""
    number = np.arange(count)
    share = (tokens - 24) // 10  # the numbers and the marks take the rest
    pool = words(tokenizer, 4 * share, POOL)
    prompt = pa.array(words(tokenizer, 3 * share, POOL)).take(pa.array(number % POOL))
    sides = [pa.array(pool).take(pa.array((number + shift) % POOL)) for shift in (0, 7)]
    unique = numbered(" ", number)
    return {
        "prompt": pc.binary_join_element_wise(prompt, numbered(" ", number // PER_PROMPT), ""),
        "chosen": pc.binary_join_element_wise(sides[0], unique, ""),
        "rejected": pc.binary_join_element_wise(sides[1], unique, ""),
    }


def numbered(word: str, number: np.ndarray) -> pa.Array:
    """The word with every number behind it."""
    return pc.binary_join_element_wise(pa.scalar(word), pc.cast(pa.array(number), pa.string()), "")


def words(tokenizer: Any, tokens: int, count: int) -> list[str]:
    """Texts of about so many tokens, each from another place of the vocabulary."""
    vocabulary = [word for word in map(tokenizer.decode, range(300, 1500)) if word.isalpha()]
    random = np.random.default_rng(tokens)
    made = []
    for _ in range(count):
        text = " ".join(random.choice(vocabulary, tokens))
        ids = tokenizer(text, add_special_tokens=False).input_ids[:tokens]
        made.append(tokenizer.decode(ids).strip() or "word")
    return made


def make_model(folder: Path) -> Any:
    """A language model of one tiny layer, under the bundled tokenizer, which is returned."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(str(ROOT / "assets" / "reviews-model"))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer
