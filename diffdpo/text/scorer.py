"""The network to train as one function: tokens in, log-probabilities of the scored tokens out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from diffdpo.engine.console import say
from diffdpo.errors import UserError
from diffdpo.text.layout import PAD, Lengths, Row, lay_out, padded, passes, source_places, visible
from diffdpo.text.logprob import TokenLogProbability
from diffdpo.text.sharing import obstacle, pays

# Numbers, 256 MiB in float32. As many are kept for the backward pass; where there are more, chunks
# are computed again. (Chunks of a quarter or an eighth, all computed again, make a step 10 %
# longer.)
LOGITS_AT_ONCE = 1 << 26
# Tokens. On a CPU long rows are faster one by one than padded together.
TOKENS_AT_ONCE = {"cpu": 1024}
NO_LIMIT = 1 << 62


class TokenScorer(nn.Module):
    """A causal language model whose output head sees the scored positions alone, and whose body
    sees a prompt once for both completions where that pays.

    All of it is one forward pass, so that it works under DistributedDataParallel. ``share``: True
    or False, or None for the pairs in which it pays.
    """

    def __init__(self, network: PreTrainedModel, share: bool | None = None) -> None:
        super().__init__()
        self.network, self.share = network, share
        self.scale, self.softcap = logit_rules(network)
        self.at_once = LOGITS_AT_ONCE
        self.can_share = False  # until it is proven

    def forward(
        self,
        token_S: Tensor,
        lengths: list[Lengths],
        target_P: Tensor,
        score_prompts: bool = False,
    ) -> Tensor:
        """Log-probabilities of the targets, float32, ``(P, 1)``; in training ``(P, 4)``, the
        columns that ``logprob`` names.

        ``token_S`` holds for every item its prompt and its completions, ``lengths`` their sizes;
        the targets are the tokens of all first completions, all second ones, then of the prompts
        where these are scored.
        """
        at_once = TOKENS_AT_ONCE.get(token_S.device.type, NO_LIMIT)
        batches = passes(lay_out(lengths, self.shares), at_once)
        hidden_SC = torch.cat([self.hidden(rows, token_S).flatten(0, 1) for rows in batches])
        hidden_PC = hidden_SC[source_places(batches, score_prompts).to(token_S.device)]
        return self.log_probabilities(hidden_PC, target_P)

    def shares(self, lengths: Lengths) -> bool:
        """Whether a pair becomes one row."""
        if not self.can_share or not lengths[0]:
            return False
        head: Any = self.network.get_output_embeddings()
        return pays(lengths, head.weight.shape[1]) if self.share is None else self.share

    def hidden(self, rows: list[Row], token_S: Tensor) -> Tensor:
        """The body's last layer ``(N, T, C)`` of some rows in one pass. Positions count from 0 in
        every row."""
        body: Any = self.network.base_model
        index_NT = padded([row.token_S for row in rows], 0).to(token_S.device)
        shape: dict[str, Tensor] = {}
        if len(rows[0].sides) > 1:
            part_NT = padded([row.part_S for row in rows], PAD).to(token_S.device)
            shape["attention_mask"] = self.mask(visible(part_NT))
            shape["position_ids"] = padded([row.place_S for row in rows], 0).to(token_S.device)
        elif rows[-1].size < rows[0].size:
            real = padded([torch.ones(row.size, dtype=torch.long) for row in rows], 0)
            shape["attention_mask"] = real.to(token_S.device)
        hidden_NTC: Tensor = body(
            input_ids=token_S[index_NT], use_cache=False, **shape
        ).last_hidden_state
        return hidden_NTC

    def mask(self, visible_N1TT: Tensor) -> Tensor:
        """As the attention in use takes it: eager attention adds it to its logits."""
        if self.network.config._attn_implementation != "eager":
            return visible_N1TT
        closed = torch.finfo(torch.float32).min
        return torch.zeros(visible_N1TT.shape, device=visible_N1TT.device).masked_fill_(
            ~visible_N1TT, closed
        )

    def log_probabilities(self, hidden_PC: Tensor, target_P: Tensor) -> Tensor:
        """Chunk by chunk. With gradient, more than one chunk is computed again in the backward
        pass: the logits of one are in memory at a time."""
        words = self.network.config.get_text_config().vocab_size
        training = torch.is_grad_enabled()
        # Policy and reference are cut alike: the number of rows decides how a matrix product is
        # rounded.
        chunk = max(1, self.at_once // words)
        pieces = [
            (h, t, training)
            for h, t in zip(hidden_PC.split(chunk), target_P.split(chunk), strict=True)
        ]
        if not training or len(pieces) == 1:
            return torch.cat([self.measure(*piece) for piece in pieces])
        return torch.cat(
            [checkpoint(self.measure, *piece, use_reentrant=False) for piece in pieces]
        )  # type: ignore[misc]

    def measure(self, hidden_PC: Tensor, target_P: Tensor, extra: bool) -> Tensor:
        """One chunk, in float32 whatever precision the logits come in."""
        found: Tensor = TokenLogProbability.apply(self.logits(hidden_PC), target_P, extra)
        return found

    def logits(self, hidden: Tensor) -> Tensor:
        """The head with what some models do to its output."""
        head: Any = self.network.get_output_embeddings()
        logits: Tensor = head(hidden.to(head.weight.dtype))
        if self.scale != 1:
            logits = logits.float() * self.scale
        return self.softcap * torch.tanh(logits.float() / self.softcap) if self.softcap else logits

    def disable_adapters(self) -> None:
        """Run the base weights alone."""
        self.network.disable_adapters()

    def enable_adapters(self) -> None:
        """Run the adapters again."""
        self.network.enable_adapters()

    def set_adapter(self, name: str) -> None:
        """Run this one of several adapters."""
        self.network.set_adapter(name)


def logit_rules(network: PreTrainedModel) -> tuple[float, float | None]:
    """What Cohere, Falcon-H1, Granite and others multiply their logits with, and the soft cap of
    Gemma 2."""
    config = network.config.get_text_config()
    scale = 1.0
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        value = getattr(config, name, None)
        scale = value if value is not None else scale
    if divisor := getattr(config, "logits_scaling", None):
        scale = divisor if config.model_type == "hyperclovax" else 1 / divisor
    return scale, getattr(config, "final_logit_softcapping", None)


@torch.no_grad()
def prove_head(scorer: TokenScorer, name: str) -> None:
    """Raises UserError where the scorer's logits are not the model's own: its head does something
    unknown here. Then finds out whether prompts can be shared."""
    network = scorer.network
    ids = (
        torch.arange(3, device=next(network.parameters()).device)[None]
        % network.config.get_text_config().vocab_size
    )
    own = network(input_ids=ids, use_cache=False).logits.float()
    body: Any = network.base_model
    ours = scorer.logits(body(input_ids=ids, use_cache=False).last_hidden_state)
    if not torch.allclose(own, ours.float(), rtol=1e-3, atol=1e-3):
        raise UserError(
            f"--model_name_or_path {name}: its logits are not a plain function of its output head"
        )
    if scorer.share is not False:
        prove_sharing(scorer)


def prove_sharing(scorer: TokenScorer) -> None:
    """Share from now on if a pair in one row scores as in two, to the rounding of the weights'
    precision; else say why not. Networks differ in what they do with a mask and positions of one's
    own: state-space layers ignore both."""
    why = obstacle(scorer.network) or disproof(scorer)
    scorer.can_share = why is None
    if why:
        say(f"prompts      computed for each completion: {why}")


@torch.no_grad()
def disproof(scorer: TokenScorer) -> str | None:
    """What goes wrong with a small pair in one row; None where nothing does."""
    words, device = (
        scorer.network.config.get_text_config().vocab_size,
        next(scorer.parameters()).device,
    )
    lengths = (5, 4, 3)
    token_S = (torch.arange(7, 7 + sum(lengths), device=device) * 31) % words
    target_P = token_S[lengths[0] :]
    wanted, found = scorer.share, []
    try:
        for scorer.can_share, scorer.share in ((False, False), (True, True)):
            found.append(scorer(token_S, [lengths], target_P))
    except Exception as error:  # whatever a network does with arguments it does not know
        return f"the network takes no such mask ({' '.join(str(error).split())[:80]})"
    finally:
        scorer.share = wanted
    apart, together = found
    if torch.allclose(apart, together, rtol=1e-4, atol=1e-4):
        return None
    return "the network's scores of a pair in one row are others than in two"
