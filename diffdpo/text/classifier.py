"""A reward of texts: the one number of a sequence classifier, as TRL's trainers read it.

Shapes: ``N`` texts × ``T`` tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from diffdpo.cache.keys import digest, network_digest
from diffdpo.errors import UserError
from diffdpo.metrics.text_reward import Prompts, TextReward, Texts
from diffdpo.text.chat import apply_template
from diffdpo.text.limits import position_count
from diffdpo.text.loading import check_finite, check_keys, reasons

FLAG = "--reward_model classifier="
KIND = "AutoModelForSequenceClassification"


def load_classifier(path: str | None = None) -> TextReward:
    """The reward of a classifier of one label at ``path``, with its tokenizer beside it.

    Raises UserError where there is none, or where it gives more than one number.
    """
    if path is None:
        raise UserError(f"--reward classifier: which? name its weights with {FLAG}PATH")
    place = f"{FLAG}{path}"
    try:
        loaded: Any = AutoModelForSequenceClassification.from_pretrained(
            path, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
        tokenizer: Any = AutoTokenizer.from_pretrained(path)
    except Exception as error:  # of every kind: configurations and files may hold anything
        raise UserError(*reasons(path, place, error, KIND)) from error
    network = loaded[0].eval()
    check_keys(place, loaded[1].get("missing_keys", ()), loaded[1].get("unexpected_keys", ()))
    check_finite(network, place)
    if network.config.num_labels != 1:
        raise UserError(f"{place}: has {network.config.num_labels} labels; a reward has one")
    judge = Classifier(network, tokenizer)
    return TextReward(
        "classifier", judge.score, judge.identity(), network, judge.too_long, reads_chats=True
    )


class Classifier:
    """A network of one label, and its tokenizer."""

    def __init__(self, network: Any, tokenizer: Any) -> None:
        self.network, self.tokenizer = network, tokenizer
        positions = position_count(network) or tokenizer.model_max_length
        self.longest = min(positions, tokenizer.model_max_length)
        config = network.config.get_text_config()
        if config.pad_token_id is None:
            # Networks that read the last token find it by what they pad with.
            config.pad_token_id = tokenizer.pad_token_id
        self.pad = config.pad_token_id

    def identity(self) -> dict[str, str]:
        """What the numbers depend on."""
        template = self.tokenizer.chat_template
        return {
            "weights": network_digest(self.network),
            "text": f"chat template {digest(template)}" if template else "prompt and completion",
            "tokens": str(self.longest),
            "scale": "logit",
        }

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
        whole = [*messages, {"role": "assistant", "content": completion}]
        # A template writes its own marks of beginning and end.
        text = apply_template(self.tokenizer, whole)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def too_long(self, prompts: Prompts, completions: Texts) -> int:
        """How many texts lose their end."""
        pairs = zip(prompts, completions, strict=True)
        return sum(len(self.tokens(*pair)) > self.longest for pair in pairs)
