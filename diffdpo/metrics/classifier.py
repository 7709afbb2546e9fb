"""A reward of texts: the one number of a sequence classifier, as TRL's trainers read it.

Shapes: ``N`` texts × ``T`` tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from diffdpo.cache.keys import digest
from diffdpo.errors import UserError
from diffdpo.metrics.identity import digest_of, network_name, tokenizer_digest, weight_files
from diffdpo.metrics.text_reward import Prompts, TextReward, Texts
from diffdpo.metrics.weights import folder_of, load_network, load_tokenizer, place_of
from diffdpo.text.model.limits import position_count
from diffdpo.text.tokens.chat import apply_template, joined

NAME = "classifier"


def open_reward(path: str | None = None) -> TextReward:
    """The reward of a classifier of one label at ``path``, a folder or hub id, with its tokenizer
    beside it.

    Raises UserError where there is none, or where it gives more than one number.
    """
    if path is None:
        raise UserError(f"--reward {NAME}: which? name its folder, --reward_model {NAME}=PATH")
    folder = folder_of(NAME, path, None, "a sequence classifier of one label and its tokenizer")
    place = place_of(NAME, path)
    network = load_network(AutoModelForSequenceClassification, folder, place)
    if network.config.num_labels != 1:
        raise UserError(f"{place}: has {network.config.num_labels} labels; a reward has one")
    tokenizer = load_tokenizer(folder, place, len(network.get_input_embeddings().weight))
    judge = Classifier(network, tokenizer)
    template = tokenizer.chat_template
    identity = {
        "weights": digest_of(weight_files(folder)),
        "network": network_name(folder, type(network).__name__),
        "text": f"chat template {digest(template)}" if template else "prompt and completion",
        "tokenizer": tokenizer_digest(folder),
        "tokens": str(judge.longest),
        "scale": "logit",
    }
    return TextReward(NAME, judge.score, identity, network, judge.too_long, reads_chats=True)


class Classifier:
    """A network of one label, and its tokenizer."""

    def __init__(self, network: Any, tokenizer: Any) -> None:
        self.network, self.tokenizer = network, tokenizer
        positions = position_count(network) or tokenizer.model_max_length
        self.longest = min(positions, tokenizer.model_max_length)
        # Networks that read the last token find it by what they pad with.
        self.pad = network.config.get_text_config().pad_token_id

    def score(self, prompts: Prompts, completions: Texts) -> np.ndarray:
        """The logits ``(N,)``, in float32."""
        rows = [
            self.tokens(p, c)[: self.longest] for p, c in zip(prompts, completions, strict=True)
        ]
        # Without a token to pad with, texts are read one at a time.
        batches = [rows] if self.pad is not None else [[row] for row in rows]
        return torch.cat([self.logits(batch) for batch in batches]).double().cpu().numpy()

    @torch.no_grad()
    def logits(self, rows: Sequence[list[int]]) -> Tensor:
        """The logits ``(N,)`` of rows of tokens, which are filled up to one length at the right."""
        width, device = max(map(len, rows)), self.network.device
        token_NT = torch.tensor(
            [[*row, *[self.pad or 0] * (width - len(row))] for row in rows], device=device
        )
        lengths_N1 = torch.tensor([[len(row)] for row in rows], device=device)
        mask_NT = (torch.arange(width, device=device) < lengths_N1).long()
        return self.network(input_ids=token_NT, attention_mask=mask_NT).logits[:, 0].float()

    def tokens(self, prompt: Any, completion: str) -> list[int]:
        """The tokens of a text: by the chat template, where the tokenizer has one, with a prompt of
        plain text as the user's words; else of prompt and completion.

        Raises UserError for a conversation without a template.
        """
        if self.tokenizer.chat_template is None:
            if not isinstance(prompt, str):
                raise UserError(
                    "--reward classifier: the data are conversations, and its tokenizer has no"
                    " chat template"
                )
            return list(self.tokenizer(prompt + completion)["input_ids"])
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        whole = joined(messages, [{"role": "assistant", "content": completion}])
        # A template writes its own marks of beginning and end.
        text = apply_template(self.tokenizer, whole)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def too_long(self, prompts: Prompts, completions: Texts) -> int:
        """How many texts lose their end."""
        pairs = zip(prompts, completions, strict=True)
        return sum(len(self.tokens(*pair)) > self.longest for pair in pairs)
