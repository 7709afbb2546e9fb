"""The network to train as one function: tokens in, log-probabilities of the scored tokens out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from diffdpo.engine.console import say
from diffdpo.engine.transfer import on_device
from diffdpo.errors import UserError
from diffdpo.text.scoring.flexible import FLEXIBLE, filled_up, mask_of, visible
from diffdpo.text.scoring.head import logit_rules, plain_logits, precision_of
from diffdpo.text.scoring.layers import layers_of, not_compiled
from diffdpo.text.scoring.layout import Layout, Lengths, Rule, laid_out
from diffdpo.text.scoring.logprob import TokenLogProbability
from diffdpo.text.scoring.packed import packed_arguments
from diffdpo.text.scoring.router import RouterBalance
from diffdpo.text.scoring.sharing import obstacle
from diffdpo.text.vision.pictures import Pictures
from diffdpo.text.vision.positions import shared_positions

# Logits in one chunk: 256 MiB in float32. A single chunk is kept for the backward pass; of several,
# each is computed again there. (Chunks of a quarter or an eighth make a step 10 % longer.)
LOGITS_AT_ONCE = 1 << 26
# Tokens in one forward pass. On a CPU long rows are faster one by one than padded together.
TOKENS_AT_ONCE = {"cpu": 1024}
NO_LIMIT = 1 << 62


class TokenScorer(nn.Module):
    """Scores tokens with a causal language model. Its output head runs on the scored positions
    alone, and its body computes the prompt of a pair once where that saves time.

    ``share``: always or never compute a prompt once; None decides for each pair.
    """

    def __init__(self, network: PreTrainedModel, share: bool | None = None) -> None:
        super().__init__()
        # A module with one forward, since DistributedDataParallel adds up gradients for that alone.
        self.network, self.share = network, share
        self.scale, self.softcap = logit_rules(network)
        self.at_once = LOGITS_AT_ONCE
        self.balance: RouterBalance | None = None  # of a mixture of experts, where it is trained
        # The number of passes to run: more than there are where processes run each layer together.
        self.passes: Callable[[int], int] = int
        self.can_share = False  # until ``prove_sharing`` has tried it on a pair
        self.packed = False  # until ``prove_packing`` has

    @property
    def rule(self) -> Rule:
        """How this network reads items, for ``laid_out``."""
        head: Any = self.network.get_output_embeddings()
        at_once = TOKENS_AT_ONCE.get(next(self.parameters()).device.type, NO_LIMIT)
        share = self.share if self.can_share else False
        masked = self.network.config._attn_implementation == FLEXIBLE
        return Rule(share, head.weight.shape[1], at_once, self.packed, self.packed and masked)

    def compile_layers(self) -> None:
        """Mark each layer to be compiled, once for all numbers and lengths of rows. What stands
        around the layers reads a ``Layout``, whose numbers differ in every step."""
        for layer in layers_of(self.network):
            layer.compile(dynamic=True)

    def forward(
        self, layout: Layout, all_columns: bool = False, pictures: Pictures | None = None
    ) -> Tensor:
        """Log-probabilities of the targets, float32: ``(P, 1)``, or with gradient or where
        ``all_columns`` are asked for ``(P, 5)``, the columns that ``logprob`` names; with
        ``balance`` also those that ``router`` names.

        The ``layout`` is on the device of the network, and made by its ``rule``; ``pictures`` are
        those of its items.
        """
        reads = layout.reads()
        filling = self.passes(len(reads)) - len(reads)
        routed: list[tuple[Tensor, ...]] | None = None
        if self.balance and torch.is_grad_enabled():
            routed = []
        both = zip(reads, layout.passes, layout.items, strict=True)
        outputs = [
            self.hidden(
                read,
                sizes,
                routed,
                pictures.inputs(items, read[0]) if pictures else {},
                layout.packed,
            ).flatten(0, 1)
            for read, (_, sizes), items in both
        ]
        # Behind all others, where no scored token has its source: their gradient is zero.
        filler = reads[0][:1, :1, :1]
        outputs += [self.hidden(filler, [1]).flatten(0, 1) for _ in range(filling)]
        hidden_PC = torch.cat(outputs)[layout.source_P]
        column_PK = self.log_probabilities(hidden_PC, layout.target_P, all_columns)
        if self.balance is None or routed is None:
            return column_PK
        return torch.cat([column_PK, self.balance.columns(routed, len(column_PK))], dim=1)

    def hidden(
        self,
        read_KNT: Tensor,
        sizes: list[int],
        routed: list[tuple[Tensor, ...]] | None = None,
        pictures: Mapping[str, Tensor] = MappingProxyType({}),
        packed: bool = False,
    ) -> Tensor:
        """Outputs of the body's last layer ``(N, T, C)`` for one pass of a ``Layout`` and its
        ``pictures``. What the routers say of the tokens is added to ``routed``, where that is
        given."""
        body: Any = self.network.base_model
        shape: dict[str, Any] = {} if routed is None else {"output_router_logits": True}
        attention = str(self.network.config._attn_implementation)
        masked = packed and attention == FLEXIBLE
        token_NT, *more = filled_up(read_KNT) if masked else read_KNT
        if packed:
            position_NT, told_NT = more
            shape["position_ids"] = position_NT
            if masked:
                shape["attention_mask"] = mask_of(told_NT)
            else:
                shape |= packed_arguments(told_NT[0, : len(sizes)], sizes, attention)
            sizes = [sum(sizes)]
        elif len(more) == 2:
            segment_NT, position_NT = more
            shape["attention_mask"] = self.mask(visible(segment_NT))
            shape["position_ids"] = shared_positions(
                body, token_NT, segment_NT, position_NT, pictures
            )
        # Where no row is padded, the attention takes its plain causal path without a mask.
        elif more:
            shape["attention_mask"] = more[0]
        output = body(input_ids=token_NT, use_cache=False, **shape, **pictures)
        if routed is not None:
            routed.append(tuple(without_padding(layer, sizes) for layer in output.router_logits))
        hidden_NTC: Tensor = output.last_hidden_state
        return hidden_NTC[:, : read_KNT.shape[-1]]

    def mask(self, visible_N1TT: Tensor) -> Tensor:
        """The mask in the form that the attention in use takes: booleans for sdpa; numbers for
        eager, which adds them to its logits."""
        if self.network.config._attn_implementation != "eager":
            return visible_N1TT
        closed = torch.finfo(torch.float32).min
        return torch.zeros(visible_N1TT.shape, device=visible_N1TT.device).masked_fill_(
            ~visible_N1TT, closed
        )

    def log_probabilities(
        self, hidden_PC: Tensor, target_P: Tensor, all_columns: bool = False
    ) -> Tensor:
        """Log-probabilities of the targets, one chunk of positions after another. Of several, the
        backward pass computes each again, so that the logits of one are in memory at a time."""
        words = self.network.config.get_text_config().vocab_size
        training = torch.is_grad_enabled()
        # The same chunks for policy and reference, with gradient or without: the number of rows
        # decides how a matrix product is rounded, and rewards must be exactly 0 at the start.
        chunk = max(1, self.at_once // words)
        pieces = [
            (hidden, target, training or all_columns)
            for hidden, target in zip(hidden_PC.split(chunk), target_P.split(chunk), strict=True)
        ]
        if not training or len(pieces) == 1:
            return torch.cat([self.measure(*piece) for piece in pieces])
        return torch.cat(
            [checkpoint(self.measure, *piece, use_reentrant=False) for piece in pieces]
        )  # type: ignore[misc]

    def measure(self, hidden_PC: Tensor, target_P: Tensor, extra: bool) -> Tensor:
        """The columns of ``logprob`` for one chunk, float32 whatever the logits come in."""
        column_PK: Tensor = TokenLogProbability.apply(self.logits(hidden_PC), target_P, extra)
        return column_PK

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states, with the scale or soft cap that some models put behind the
        head."""
        head: Any = self.network.get_output_embeddings()
        logits = plain_logits(head, hidden)
        if self.scale != 1:
            logits = logits.float() * self.scale
        return self.softcap * torch.tanh(logits.float() / self.softcap) if self.softcap else logits

    def generate(self, *args: Any, **kwargs: Any) -> Tensor:
        """The network's own generation of text."""
        # A cache has a place for each layer, by which each would be compiled by itself.
        with not_compiled(layers_of(self.network)):
            token_NT: Tensor = self.network.generate(*args, **kwargs)  # type: ignore[operator]
        return token_NT

    def set_adapter(self, name: str) -> None:
        """Switch to one of several adapters."""
        self.network.set_adapter(name)


def without_padding(layer: Tensor, sizes: list[int]) -> Tensor:
    """What a router says of the tokens of rows of these ``sizes``, padded to the first of them."""
    width = sizes[0]
    # By slices: an index would be copied to the device, and a mask read back from it.
    return torch.cat([layer[n * width :][:size] for n, size in enumerate(sizes)])


def as_in_training(scorer: TokenScorer) -> AbstractContextManager:
    """Autocast where weights are of several types, which meet under it alone."""
    weights = [weight for weight in scorer.parameters() if weight.is_floating_point()]
    mixed = len({weight.dtype for weight in weights}) > 1
    return torch.autocast(weights[0].device.type, torch.bfloat16, enabled=mixed)


@torch.no_grad()
def prove_head(scorer: TokenScorer, name: str) -> None:
    """Raises UserError where the scorer's logits are not the model's own, because the model does
    something with them that is unknown here. Then finds out whether prompts can be shared."""
    # Tried on three tokens rather than told by a list of architectures, which would never be whole.
    network = scorer.network
    ids = (
        torch.arange(3, device=next(network.parameters()).device)[None]
        % network.config.get_text_config().vocab_size
    )
    was_training = network.training
    network.eval()  # one that comes in memory may still have its dropout
    body: Any = network.base_model
    with as_in_training(scorer):
        own = network(input_ids=ids, use_cache=False).logits.float()
        ours = scorer.logits(body(input_ids=ids, use_cache=False).last_hidden_state)
    # In half precision the model rounds after each of the two or three things it does to logits.
    tolerance = max(1e-3, 2 * precision_of(network))
    if not torch.allclose(own, ours.float(), rtol=tolerance, atol=1e-3):
        raise UserError(
            f"--model_name_or_path {name}: its logits are not a plain function of its output head"
        )
    if scorer.share is not False:
        prove_sharing(scorer)
    network.train(was_training)


def tried(scorer: TokenScorer, *lengths: Lengths) -> Tensor:
    """Log-probabilities of made-up items."""
    words = scorer.network.config.get_text_config().vocab_size
    token_S = (torch.arange(7, 7 + sum(map(sum, lengths))) * 31) % words
    device = next(scorer.parameters()).device
    scored: Tensor = scorer(on_device(laid_out(token_S, [*lengths], scorer.rule), device))
    return scored


@torch.no_grad()
def prove_steady(scorer: TokenScorer, name: str) -> None:
    """Raises UserError where two passes over the same tokens differ.

    Policy and reference are two passes: of a network with dropout left in it, or with other noise
    of its own in training, they would differ before the first step.
    """
    was_training = scorer.training
    scorer.train()  # as in training: this is where dropout acts
    with as_in_training(scorer):
        first, second = (tried(scorer, (3, 4)) for _ in range(2))
    scorer.train(was_training)
    if not torch.allclose(first, second, rtol=0, atol=1e-6):
        difference = (first - second).abs().max()
        raise UserError(
            f"--model_name_or_path {name}: two passes over the same tokens differ by"
            f" {difference:.1g} nats; the network draws random numbers of its own in training"
        )


def prove_sharing(scorer: TokenScorer) -> None:
    """Let prompts be shared if a pair in one row scores as in two, to rounding; else print the
    reason why not."""
    # Networks differ in what they do with a mask and positions that are given to them: state-space
    # layers, for example, ignore both.
    balanced = "the load-balancing loss reads it with each" if scorer.balance else None
    reason = balanced or obstacle(scorer.network) or disproof(scorer)
    scorer.can_share = reason is None
    if reason:
        say(f"prompts      computed for each completion: {reason}")


@torch.no_grad()
def disproof(scorer: TokenScorer) -> str | None:
    """What goes wrong when a small pair is scored in one row, or None where nothing does."""
    setting, scores = scorer.share, []
    try:
        for scorer.can_share, scorer.share in ((False, False), (True, True)):
            scores.append(tried(scorer, (5, 4, 3)))
    except Exception as error:  # whatever a network does with arguments it does not know
        return f"the network takes no such mask ({' '.join(str(error).split())[:80]})"
    finally:
        scorer.share = setting
    apart, together = scores
    tolerance = max(1e-4, 8 * precision_of(scorer.network))
    if torch.allclose(apart, together, rtol=tolerance, atol=tolerance):
        return None
    return "the network's scores of a pair in one row are others than in two"
