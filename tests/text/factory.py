"""Tiny language models and tokenizers with hand-made chat templates; nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LOOP = "{% for m in messages %}"
CONTENT = "{% if m['content'] is string %}{{ m['content'] }}{% endif %}"
CHATML = (
    LOOP
    + "<|im_start|>{{ m['role'] }}\n"
    + CONTENT
    + "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% if tools %}[tools {{ tools | length }}]{% endif %}"
    + LOOP
    + "<|start|>{{ m['role'] }}<|end|>\n\n"
    + CONTENT
    + "<|eot|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant<|end|>\n\n{% endif %}"
)
# Opens the answer with <think> where a prompt stands alone; an answer in the history is written as
# it is.
DEEPSEEK = (
    "{{ bos_token }}"
    + LOOP
    + "{% if m['role'] == 'user' %}<|User|>{{ m['content'] }}{% elif m['role'] == 'assistant'"
    " %}<|Assistant|>{{ m['content'] }}<|eos|>{% else %}{{ m['content'] }}{% endif %}{% endfor"
    " %}{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)
# Says nothing round the messages: no marker tells where the answer begins.
BARE = LOOP + CONTENT + "{% endfor %}"
# Options of a row reach the template.
MOODY = (
    "{% if mood is defined %}({{ mood }}){% endif %}"
    + LOOP
    + "[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    + "{% if add_generation_prompt %}[assistant]{% endif %}"
)
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "deepseek": DEEPSEEK, "bare": BARE}
MARKS = [
    "<|bos|>",
    "<|eos|>",
    "<|pad|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start|>",
    "<|end|>",
    "<|eot|>",
]
MARKS += ["<|User|>", "<|Assistant|>"]
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "a"), ("i", "n"), (":", "Ġ")]


def tokenizer(
    template: str | None = None, bos: bool = False, pad: bool = True
) -> PreTrainedTokenizerFast:
    """Byte-level BPE with a few merges, so that tokens can merge across the end of a prompt."""
    # Marks come first, so that BOS, EOS and PAD are tokens 0, 1 and 2 in every test.
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = MARKS + symbols + ["".join(pair) for pair in MERGES]
    inner = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, MERGES))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    if bos:
        inner.post_processor = TemplateProcessing(
            single="<|bos|> $A", special_tokens=[("<|bos|>", 0)]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<|bos|>",
        eos_token="<|eos|>",
        pad_token="<|pad|>" if pad else None,
        extra_special_tokens=MARKS[3:],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = template
    return fast


def model(seed: int = 0, layers: int = 1, dropout: float = 0.0) -> LlamaForCausalLM:
    """A Llama of one layer that reads the tokenizer's 271 tokens."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(MARKS) + 256 + len(MERGES),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        attention_dropout=dropout,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.3,  # far above the usual 0.02: scores of two seeds must differ clearly
    )
    return LlamaForCausalLM(config)


def save_model(
    folder: Path, template: str | None = CHATML, seed: int = 0, pad: bool = True, **options: float
) -> Path:
    model(seed, **options).save_pretrained(folder)
    tokenizer(template, pad=pad).save_pretrained(folder)
    return folder


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


WORDS = ["good", "the inn", "a thin cat", "then", "noon in rain", "yes", "the end"]


def pair_rows(count: int) -> list[dict]:
    """Plain text pairs of different lengths."""
    return [
        {
            "prompt": f"Q{i}: {WORDS[i % 7]}?",
            "chosen": f" {WORDS[(i + 1) % 7]}!",
            "rejected": f" no {WORDS[(i + 3) % 7]}",
        }
        for i in range(count)
    ]


def chat_rows(count: int) -> list[dict]:
    """The same as conversations."""
    return [
        {
            "prompt": [user(row["prompt"])],
            "chosen": [assistant(row["chosen"])],
            "rejected": [assistant(row["rejected"])],
        }
        for row in pair_rows(count)
    ]


def label_rows(count: int) -> list[dict]:
    """Single completions with labels; two of three are desirable."""
    return [
        {"prompt": row["prompt"], "completion": row["chosen"], "label": index % 3 != 0}
        for index, row in enumerate(pair_rows(count))
    ]


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
