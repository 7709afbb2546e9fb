"""Completions as candidates: what they are written by, what rewards say of them, rows of two."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, Value
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diffdpo.cache.keys import CANDIDATES, Key, arithmetic, digest, network_digest
from diffdpo.data.prompts import read_prompts
from diffdpo.data.text.messages import Text
from diffdpo.data.text.record import Record
from diffdpo.data.text.schema import user_turn
from diffdpo.draws import Purpose
from diffdpo.errors import UserError
from diffdpo.metrics.judged import judged
from diffdpo.metrics.stored import signed_on
from diffdpo.metrics.text_reward import TextReward
from diffdpo.pairs.make import Judge, Rows, Source, planned
from diffdpo.pairs.select import Pair
from diffdpo.pairs.tables import Layout, called
from diffdpo.text.model.limits import position_count, vocabulary
from diffdpo.text.model.loading import find_tokenizer, load_model
from diffdpo.text.pair_settings import TextPairSettings
from diffdpo.text.reading.inputs import open_table
from diffdpo.text.reading.rows import TextRows
from diffdpo.text.sampling.comparison import as_texts, taken_apart
from diffdpo.text.sampling.generate import Ends, SampleSettings, continued, ends_of
from diffdpo.text.tokens.prompts import prompt_tokens
from diffdpo.text.tokens.row_reader import RowSettings
from diffdpo.text.tokens.template import with_template

STORED = Features({"text": Value("string"), "digest": Value("string")})
MESSAGES = [{"role": Value("string"), "content": Value("string")}]


@dataclass(frozen=True)
class Writer:
    """A language model, its tokenizer, and the prompts that it continues: as they are and as its
    tokens."""

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompts: list[Text]
    tokens: list[Sequence[int]]

    @property
    def heads(self) -> list[str]:
        """The prompts as texts."""
        return as_texts(self.tokenizer, self.tokens)

    @cached_property
    def ends(self) -> Ends:
        """The tokens that end a completion."""
        return ends_of(self.network, self.tokenizer, self.prompts)


def open_writer(settings: TextPairSettings, device: torch.device) -> Writer:
    """The model or policy of the settings on ``device``, with their prompts.

    Raises UserError where one of them cannot be opened, or a prompt leaves no room.
    """
    flag = "policy" if settings.policy else "model_name_or_path"
    if settings.policy:  # the revision is the model's
        settings = replace(settings, model_revision=None)
    network: Any = load_model(settings.sampler, flag, settings).requires_grad_(False)
    own = find_tokenizer(settings.sampler, flag, network, settings)
    tokenizer = with_template(own, settings)
    prompts, tokens = read_texts(settings, tokenizer)
    most, longest = position_count(network), max(map(len, tokens))
    if most and longest + settings.max_new_tokens > most:
        raise UserError(
            f"--max_new_tokens {settings.max_new_tokens}: after the longest prompt, {longest}"
            f" tokens, that is more than the {most} that {settings.sampler} reads"
        )
    return Writer(network.to(device).eval(), tokenizer, prompts, tokens)


def read_texts(
    settings: TextPairSettings, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[Text], list[Sequence[int]]]:
    """The distinct prompts, and their tokens. Those of a file are the user's words where the
    tokenizer has a chat template, and texts to go on with where it has none."""
    if settings.prompts is not None:
        split, config = settings.split, settings.dataset_config
        texts = read_prompts(settings.prompts, split, config, settings.cache_dir, as_written=True)
        texts = texts[: settings.num_prompts]
        prompts: list[Text] = list(texts)
        if tokenizer.chat_template:
            prompts = [user_turn(text) for text in texts]
        options = settings.chat_template_kwargs or {}
        return prompts, [prompt_tokens(prompt, tokenizer, **options) for prompt in prompts]
    rows, entry = open_table(str(settings.dataset_name), settings.split, settings, "--split")
    row_settings = RowSettings(
        settings.max_length,
        paired=False,
        data_format=settings.data_format,
        truncation_mode=settings.truncation_mode,
        chat_template_kwargs=settings.chat_template_kwargs or {},
        registered=entry,
    )
    table = TextRows(rows, tokenizer, row_settings, processes=settings.dataset_num_proc)
    found = table.of_prompts()
    if not found:
        raise UserError(f"--dataset_name {settings.dataset_name}: no row has a prompt")
    read = dict(list(found.items())[: settings.num_prompts])
    prompts = [table.format.read(Record(rows[row])).prompt for row in read.values()]
    return prompts, list(read)


@dataclass(frozen=True)
class Candidates:
    """Completions that ``writer`` writes, so many of each prompt as ``layout`` has; ``heads`` are
    the prompts as texts."""

    writer: Writer
    layout: Layout
    sampling: SampleSettings
    heads: list[str]

    def compute(self, span: range) -> Rows:
        """The rows ``span`` of the table of candidates."""
        writer = self.writer
        both = [self.layout.of(row) for row in span]
        asked = [(writer.tokens[prompt], number) for prompt, number in both]
        completions = continued(writer.network, asked, writer.ends, self.sampling)
        _, tails = taken_apart(writer.tokenizer, [tokens for tokens, _ in asked], completions)
        yield from ({"text": tail, "digest": digest(tail)} for tail in tails)

    def judge(self, name: str, reward: TextReward, device: Any) -> Judge:
        """What a reward says of stored candidates."""

        def scores(table: Dataset, rows: Sequence[int]) -> np.ndarray:
            both = [self.layout.of(row) for row in rows]
            names = called(self.heads, both)
            prompts = [prompt_for(reward, self.writer.prompts[p], self.heads[p]) for p, _ in both]
            return judged(name, reward, names, prompts, [table[row]["text"] for row in rows])

        return Judge(reward.identity, signed_on(reward, device), scores)

    def row(self, table: Dataset, pair: Pair, rows: tuple[int, int]) -> dict[str, Any] | None:
        """A row to train on; None where a side is empty."""
        chosen, rejected = (table[number]["text"] for number in rows)
        if not (chosen.strip() and rejected.strip()):
            return None  # training would take it for a broken row
        prompt = self.writer.prompts[pair.prompt]
        chat = not isinstance(prompt, str)
        sides = {"chosen": chosen, "rejected": rejected}
        return {"prompt": prompt, **{n: answer(t) if chat else t for n, t in sides.items()}}


def text_source(
    settings: TextPairSettings, writer: Writer, rewards: Mapping[str, TextReward], device: Any
) -> Source:
    """Candidates that ``writer`` writes, and their rewards."""
    sampling = SampleSettings(
        settings.seed,
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.sample_batch_size,
        vocabulary=len(writer.tokenizer),
        purpose=Purpose.CANDIDATE,
    )
    layout = Layout(len(writer.prompts), settings.candidates)
    key = texts_key(settings, writer, device)
    made = Candidates(writer, layout, sampling, writer.heads)
    return Source(
        prompts=[p if isinstance(p, str) else json.dumps(p) for p in writer.prompts],
        key=key,
        features=STORED,
        prepare=lambda: None,
        compute=made.compute,
        judges={name: made.judge(name, reward, device) for name, reward in rewards.items()},
        facts=facts_of(settings, key),
        sides=("chosen", "rejected"),
        columns=columns_of(writer.prompts),
        row=made.row,
        pages=lambda table, layout, chosen: {},
        ties=False,  # rows of texts have no label that says so
    )


def texts_key(settings: TextPairSettings, writer: Writer, device: torch.device) -> Key:
    """The key of the table of candidates."""
    words = json.dumps(sorted(map(str, vocabulary(writer.tokenizer))))
    facts = {
        "writer": network_digest(writer.network),
        "tokenizer": digest(words, " ".join(map(str, writer.ends))),
        "prompts": digest(*(np.asarray(ids, dtype=np.int64).tobytes() for ids in writer.tokens)),
        "device": arithmetic(device),
    }
    return Key.of("candidates", settings, CANDIDATES, facts)


def prompt_for(reward: TextReward, prompt: Text, head: str) -> Any:
    """A prompt as a reward reads it: a conversation or its text."""
    return prompt if reward.reads_chats and not isinstance(prompt, str) else head


def answer(text: str) -> list[dict[str, str]]:
    """A completion as the assistant's words."""
    return [{"role": "assistant", "content": text}]


def columns_of(prompts: Sequence[Text]) -> Features:
    """The columns of rows with these prompts: texts, or conversations of plain messages.

    Raises UserError where they are of several kinds, or hold more than texts.
    """
    if all(isinstance(prompt, str) for prompt in prompts):
        return Features(dict.fromkeys(("prompt", "chosen", "rejected"), Value("string")))
    for prompt in prompts:
        if isinstance(prompt, str) or any(set(message) - {"role", "content"} for message in prompt):
            raise UserError(
                "data: prompts are texts as well as conversations, or call tools; take rows of one"
                " kind, of plain messages"
            )
    return Features(dict.fromkeys(("prompt", "chosen", "rejected"), MESSAGES))


def facts_of(settings: TextPairSettings, key: Key) -> dict[str, Any]:
    """What the candidates are, for the record."""
    return {
        "model": settings.model_name_or_path,
        "policy": settings.policy,
        "prompts": settings.prompts or settings.dataset_name,
        "max_new_tokens": settings.max_new_tokens,
        "seed": settings.seed,
        "identity": key.facts,
    }


def plan_lines(settings: TextPairSettings, source: Source) -> dict[str, str]:
    """What will happen, by heading."""
    count = len(source.prompts) * settings.candidates
    lines = {
        "sampling": (
            f"{settings.candidates} candidates of each, {count:,} in all, of up to"
            f" {settings.max_new_tokens:,} tokens, by {settings.sampler}"
        ),
    }
    lines = planned(source, settings.prompts or settings.dataset_name, lines)
    if settings.soft_labels:
        lines["labels"] = f"train with --soft_label_scale {1 / settings.soft_labels:.6g}"
    return lines
