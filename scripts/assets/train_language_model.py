"""Trains the bundled language model and its tokenizer, from scratch, on the training split of the
bundled reviews.

    python scripts/assets/train_language_model.py --minutes 30

A byte-level BPE and a small Llama with dropout; the weights of the epoch with the lowest validation
loss are kept, as bfloat16. Loss and perplexity on texts that it was not trained on go into
``assets/reviews-model/perplexity.json``.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator

import pandas as pd
import torch
import torch.nn.functional as F
from common import ASSETS, clock, cosine_rate, parser_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from diffdpo.batched import batched
from diffdpo.engine.files import atomic_folder

TARGET = ASSETS / "reviews-model"
MARKS = ["<|begin|>", "<|end|>", "<|pad|>"]
BEGIN, END, PAD = range(3)
VOCABULARY, LENGTH = 3072, 128
BATCH, RATE, DROPOUT, WEIGHT_DECAY = 24, 2e-3, 0.15, 0.1
IGNORED = -100


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE; every text begins with <|begin|>."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=MARKS, initial_alphabet=alphabet),
    )
    inner.post_processor = TemplateProcessing(
        single=f"{MARKS[BEGIN]} $A", special_tokens=[(MARKS[BEGIN], BEGIN)]
    )
    named = dict(zip(("bos_token", "eos_token", "pad_token"), MARKS, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=inner, **named)


def make_model() -> LlamaForCausalLM:
    """About 3.4 million parameters; input and output embeddings are one."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
        bos_token_id=BEGIN,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    return LlamaForCausalLM(config)


def add_dropout(model: LlamaForCausalLM) -> list[torch.utils.hooks.RemovableHandle]:
    """Add dropout to the embeddings and to what every block adds; returns the hooks to remove."""
    # By hooks: a Llama has no dropout there, and without any it learns so small a corpus by heart.

    def drop(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return F.dropout(output, DROPOUT, module.training)

    modules = [model.model.embed_tokens]
    modules += [
        module
        for layer in model.model.layers
        for module in (layer.self_attn.o_proj, layer.mlp.down_proj)
    ]
    return [module.register_forward_hook(drop) for module in modules]


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[Tensor]:
    """Token ids of every text, with its end, cut to the model's length."""
    return [torch.tensor([*ids, END][:LENGTH]) for ids in tokenizer(texts)["input_ids"]]


def read(split: str) -> list[str]:
    """The texts of a split of the bundled reviews."""
    return pd.read_parquet(ASSETS / "reviews" / "texts" / f"{split}-00000.parquet").text.tolist()


def batches(rows: list[Tensor]) -> Iterator[Tensor]:
    """One epoch of padded batches (rows, length); texts of about the same length share one."""
    # Up to six tokens of chance, so that the batches of one epoch are not those of the next.
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]) + 6 * torch.rand(1).item())
    chunks = batched(order, BATCH)
    for index in torch.randperm(len(chunks)).tolist():
        yield nn.utils.rnn.pad_sequence(
            [rows[i] for i in chunks[index]], batch_first=True, padding_value=PAD
        )


def endless(rows: list[Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Batches of one epoch after another, each with the number of epochs before it."""
    epoch = 0
    while True:
        for ids_NT in batches(rows):
            yield epoch, ids_NT
        epoch += 1


def loss_of(model: LlamaForCausalLM, ids_NT: Tensor, reduction: str = "mean") -> Tensor:
    """Negative log-likelihood of the tokens after the first, in nats, without padding."""
    # No attention mask: padding stands behind the tokens, where a causal model does not see it.
    logits_NTV = model(input_ids=ids_NT).logits[:, :-1]
    target_NT = ids_NT[:, 1:].masked_fill(ids_NT[:, 1:] == PAD, IGNORED)
    return F.cross_entropy(
        logits_NTV.flatten(0, 1), target_NT.flatten(), ignore_index=IGNORED, reduction=reduction
    )


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, rows: list[Tensor]) -> float:
    """The loss on held-out rows in nats per token."""
    model.eval()
    total = sum(loss_of(model, ids_NT, "sum").item() for ids_NT in batches(rows))
    model.train()
    return total / sum(len(row) - 1 for row in rows)


def make_optimizer(model: nn.Module) -> torch.optim.AdamW:
    """AdamW, with weight decay for matrices but not for the gains of the norms."""
    weights = [weight for weight in model.parameters() if weight.dim() > 1]
    gains = [weight for weight in model.parameters() if weight.dim() == 1]
    groups = [
        {"params": weights, "weight_decay": WEIGHT_DECAY},
        {"params": gains, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98), fused=True)


def train(
    model: LlamaForCausalLM, rows: list[Tensor], validation: list[Tensor], minutes: float
) -> int:
    """Train; leaves the weights of the best epoch in the model and returns its number."""
    optimizer, best, kept, last = (
        make_optimizer(model),
        math.inf,
        (0, copy.deepcopy(model.state_dict())),
        0,
    )

    def measure(epoch: int, loss: float) -> None:
        nonlocal best, kept
        held_out = held_out_loss(model, validation)
        print(
            f"\nepoch {epoch}: training {loss:.4f}, validation {held_out:.4f} nats a token",
            flush=True,
        )
        if held_out < best:
            best, kept = held_out, (epoch, copy.deepcopy(model.state_dict()))

    stream, losses = endless(rows), [0.0]
    for step, progress, bar in clock(minutes, "language model"):
        epoch, ids_NT = next(stream)
        if epoch > last:
            measure(epoch, sum(losses[-400:]) / len(losses[-400:]))
            last = epoch
        for group in optimizer.param_groups:
            group["lr"] = RATE * cosine_rate(progress, step, 200)
        loss = loss_of(model, ids_NT)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        bar.set_postfix_str(
            f"epoch {epoch}, loss {sum(losses[-100:]) / len(losses[-100:]):.4f}", refresh=False
        )
    measure(last + 1, sum(losses[-400:]) / len(losses[-400:]))
    model.load_state_dict(kept[1])
    return kept[0]


def main() -> None:
    """Train tokenizer and model, measure, save."""
    parser = parser_of(__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    minutes = parser.parse_args().minutes
    torch.manual_seed(0)
    tokenizer, model = train_tokenizer(read("train")), make_model()
    rows = {split: encode(tokenizer, read(split)) for split in ("train", "validation", "test")}
    tokens = sum(map(len, rows["train"]))
    print(
        f"{len(rows['train']):,} texts, {tokens:,} tokens, {model.num_parameters():,} parameters",
        flush=True,
    )
    hooks = add_dropout(model)
    epoch = train(model, rows["train"], rows["validation"], minutes)
    for hook in hooks:
        hook.remove()
    model.bfloat16().float()  # the perplexity is that of the weights in the file
    facts: dict[str, object] = {
        "training_tokens": tokens,
        "parameters": model.num_parameters(),
        "epoch": epoch,
    }
    for split in ("validation", "test"):
        nats = held_out_loss(model, rows[split])
        facts |= {
            f"{split}_nats_per_token": round(nats, 4),
            f"{split}_perplexity": round(math.exp(nats), 2),
        }
    with atomic_folder(TARGET) as draft:
        tokenizer.save_pretrained(draft)
        model.bfloat16().save_pretrained(draft)
        (draft / "perplexity.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
