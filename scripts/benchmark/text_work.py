"""The text work: a small Llama with random weights and preference rows with the lengths of a real
set.

The words are taken from this package's sources; only their number matters.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import diffdpo
from diffdpo.engine.files import write_atomically
from scripts.benchmark.size import Size, Work

PACKAGE = Path(diffdpo.__file__).parent
MARKS = ["<|bos|>", "<|eos|>", "<|pad|>"]
# Spreads of the logarithms: prompts differ more than answers (means of 118 and 245 tokens over
# medians of 84 and 248).
PROMPT_SPREAD, COMPLETION_SPREAD = 0.85, 0.4


def make_text_work(work: Work) -> None:
    """Write model, tokenizer and rows; the same bytes every time."""
    make_rows(work)
    torch.manual_seed(0)
    llama(work.size).save_pretrained(work.model)


def make_rows(work: Work) -> None:
    """Write tokenizer and rows."""
    words = [
        word
        for path in sorted(PACKAGE.rglob("*.py"))
        for word in re.findall(r"[A-Za-z]+", path.read_text())
    ]
    tokens = tokenizer(words, work.size.vocabulary)
    tokens.save_pretrained(work.model)
    write_atomically(
        work.rows,
        "".join(json.dumps(row) + "\n" for row in preference_rows(work.size, words, tokens)),
    )


def tokenizer(words: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on the words; the model's vocabulary is larger where these have too
    few pieces."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=MARKS, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator([" ".join(words)], trainer)
    names = dict(zip(("bos_token", "eos_token", "pad_token"), MARKS, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)


def llama(size: Size) -> LlamaForCausalLM:
    """Embedding and output head are two matrices."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size.vocabulary,
            hidden_size=size.llama_width,
            intermediate_size=size.llama_ffn,
            num_hidden_layers=size.llama_layers,
            num_attention_heads=size.llama_heads,
            num_key_value_heads=size.llama_heads,
            max_position_embeddings=2 * size.max_length,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
            tie_word_embeddings=False,
        )
    )


def preference_rows(
    size: Size, words: list[str], tokens: PreTrainedTokenizerFast
) -> list[dict[str, str]]:
    """Plain rows; prompt and completion together keep within the length limit."""
    random = np.random.default_rng(0)
    ids = tokens([" " + word for word in words])["input_ids"]
    pool = list(zip(words, map(len, ids), strict=True))  # type: ignore[arg-type]

    def text(median: int, spread: float, limit: int) -> str:
        wanted = min(limit, max(2, round(median * math.exp(spread))))
        return words_of_length(pool, int(random.integers(len(pool))), wanted)

    room = size.max_length - 2  # BOS and EOS
    rows = []
    for spreads in zip(*(normal_quantiles(size.rows, random) for _ in range(3)), strict=True):
        prompt = text(size.prompt_tokens, PROMPT_SPREAD * spreads[0], room * 15 // 16)
        left = room - len(tokens(prompt)["input_ids"])  # type: ignore[arg-type]
        chosen = text(size.chosen_tokens, COMPLETION_SPREAD * spreads[1], left)
        rejected = text(size.rejected_tokens, COMPLETION_SPREAD * spreads[2], left)
        rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return rows


def normal_quantiles(count: int, random: np.random.Generator) -> np.ndarray:
    """The normal distribution as ``count`` numbers in random order, so that few rows have its
    median and width."""
    return random.permutation(
        [NormalDist().inv_cdf((index + 0.5) / count) for index in range(count)]
    )


def words_of_length(pool: list[tuple[str, int]], start: int, wanted: int) -> str:
    """Words of the pool from ``start`` on, ``wanted`` tokens long at most, each with a blank before
    it."""
    text, used = "", 0
    for index in range(start, start + wanted):
        word, length = pool[index % len(pool)]
        if used + length > wanted:
            break
        text, used = f"{text} {word}", used + length
    return text or " a"
