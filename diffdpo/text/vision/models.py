"""Models that read pictures: which they are, which part of them is the language model, and the
proof that they read pictures as the scorer gives them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from diffdpo.engine.console import say
from diffdpo.engine.transfer import each_tensor, on_device
from diffdpo.errors import UserError
from diffdpo.text.scoring.head import precision_of
from diffdpo.text.scoring.layout import laid_out
from diffdpo.text.scoring.scorer import TokenScorer
from diffdpo.text.vision.pictures import Pictures, together
from diffdpo.text.vision.sight import TRIED, Sight, made_up


def known_classes(config: Any) -> set[str]:
    """The names of the image–text models of a configuration."""
    known = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(config.model_type)
    return {known} if isinstance(known, str) else set(known or ())


def auto_class(config: Any) -> Any:
    """The class of ``transformers`` that loads the model of a configuration: with its part for
    pictures where the weights are of such a model."""
    reads = known_classes(config) & set(getattr(config, "architectures", None) or ())
    return AutoModelForImageTextToText if reads else AutoModelForCausalLM


def reads_pictures(network: PreTrainedModel) -> bool:
    """Whether a network is an image–text model."""
    return type(network).__name__ in known_classes(network.config)


def beside_language(network: PreTrainedModel) -> str | None:
    """A pattern of the names of all layers and weights that read pictures, and not text; None
    where there are none."""
    if not reads_pictures(network):
        return None
    name_of = {module: name for name, module in network.named_modules()}
    body, language = name_of[network.base_model], name_of[network.get_decoder()]
    # The output head is beside the body.
    return rf"(?={re.escape(body)}\.)(?!{re.escape(language)}\.).*" if body != language else None


def freeze_sight(network: PreTrainedModel) -> None:
    """Train the language model of a network alone."""
    if pattern := beside_language(network):
        for name, weight in network.named_parameters():
            weight.requires_grad_(weight.requires_grad and not re.fullmatch(pattern, name))


def sighted(scorer: TokenScorer, sight: Sight | None, name: str) -> TokenScorer:
    """The same scorer, tried on pictures where the rows have any."""
    if sight is None:
        return scorer
    if not reads_pictures(scorer.network):
        raise UserError(f"{name}: reads no pictures, and the rows have some")
    if scorer.packed:
        raise UserError("--padding_free: not with pictures in the rows; leave it out")
    return prove_pictures(scorer, sight, name)


@torch.no_grad()
def prove_pictures(scorer: TokenScorer, sight: Sight, name: str) -> TokenScorer:
    """The same scorer, which shares prompts with pictures only where that is shown on a pair.

    Raises UserError where pictures are not read, or where those of one row change another's scores.
    """
    items = [made_up_item(sight, size) for size in TRIED]
    was_training = scorer.training
    scorer.eval()
    shared, scorer.can_share = scorer.can_share, False
    try:
        apart = [scored(scorer, [item]) for item in items]
        both = scored(scorer, items)
        other = each_tensor(items[0][1], lambda t: -t if t.is_floating_point() else t)
        changed = scored(scorer, [(items[0][0], other)])
    except Exception as error:  # whatever a network does with inputs that it does not know
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{name}: pictures cannot be given to it ({reason})") from error
    finally:
        scorer.train(was_training)
    if not same(scorer, by_side(apart), both):
        raise UserError(f"{name}: the pictures of one row change others' scores")
    if same(scorer, apart[0], changed):
        raise UserError(f"{name}: its scores do not depend on pictures")
    scorer.can_share = shared
    if shared and scorer.share is not False and not shares(scorer, items[0], apart[0]):
        scorer.can_share = False
        say(
            "prompts      computed for each completion: a pair with a picture has other scores in"
            " one row"
        )
    return scorer


Item = tuple[list[list[int]], Pictures]  # a prompt with two completions, and its pictures


def made_up_item(sight: Sight, size: Sequence[int]) -> Item:
    """A pair of made-up words after a made-up picture."""
    seen = sight.see([made_up(size[0], size[1])])
    tokenizer: Any = sight.processor.tokenizer
    place = tokenizer(seen.places[0], add_special_tokens=False)["input_ids"]
    words = [number for number in range(60) if number not in sight.marks]
    return [words[7:10] + place + words[20:25], words[30:34], words[40:43]], seen.pictures


def scored(scorer: TokenScorer, items: Sequence[Item]) -> Tensor:
    """Log-probabilities of some pairs with pictures."""
    device = next(scorer.parameters()).device
    token_S = torch.tensor([token for words, _ in items for ids in words for token in ids])
    lengths = [tuple(map(len, words)) for words, _ in items]
    layout = laid_out(token_S, lengths, scorer.rule)
    pictures = together([pictures for _, pictures in items])
    column_PK: Tensor = scorer(on_device(layout, device), False, on_device(pictures, device))
    return column_PK


def by_side(apart: Sequence[Tensor]) -> Tensor:
    """Scores of pairs one by one in the order of a batch: all first completions, then the others.
    The pairs of ``made_up_item`` have four and three tokens."""
    return torch.cat([one[:4] for one in apart] + [one[4:] for one in apart])


def shares(scorer: TokenScorer, item: Item, apart: Tensor) -> bool:
    """Whether a pair with a picture scores in one row as in two."""
    setting, scorer.share = scorer.share, True
    try:
        return same(scorer, scored(scorer, [item]), apart)
    except Exception:  # whatever a network does with a mask beside pictures
        return False
    finally:
        scorer.share = setting


def same(scorer: TokenScorer, first: Tensor, second: Tensor) -> bool:
    """Whether scores are equal to rounding."""
    tolerance = max(1e-4, 8 * precision_of(scorer.network))
    return torch.allclose(first, second, rtol=tolerance, atol=tolerance)
