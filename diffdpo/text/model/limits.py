"""What a model can read: its vocabulary, its positions, and the same tokens as another model."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diffdpo.errors import UserError, short
from diffdpo.text.model.loading import find_tokenizer
from diffdpo.text.reading.rows import TextRows
from diffdpo.text.settings import TextSettings

LEARNED = 8  # rows that a table of learned positions may have beyond the positions themselves


def check_rows(network: PreTrainedModel, flag: str, name: str, *read: TextRows) -> None:
    """Raises UserError where rows hold tokens or positions that the model has no embedding for."""
    # Checked before training: on a GPU such an index ends the run far from its cause.
    largest = max(rows.largest_token for rows in read)
    size = len(network.get_input_embeddings().weight)  # type: ignore[arg-type]
    if largest >= size:
        raise UserError(
            f"--{flag} {name}: the tokenizer gives token {largest}, the model knows {size} tokens;"
            " save the model once with a longer embedding: resize_token_embeddings(len(tokenizer))"
        )
    longest = max(rows.most_tokens for rows in read)
    positions = position_count(network)
    if positions and longest > positions and has_position_table(network):
        raise UserError(
            f"--{flag} {name}: has {positions} positions, and a row has {longest} tokens; take"
            f" --max_length {positions}"
        )


def longest_row(*read: TextRows) -> int:
    """The number of tokens of the longest prompt with a completion."""
    return max(int(rows.length_I.max()) for rows in read)


def position_count(network: PreTrainedModel) -> int | None:
    """The number of positions that the model was made for, where its configuration tells."""
    config = network.config.get_text_config()
    count = getattr(config, "max_position_embeddings", None)  # GPT-2's n_positions as well
    return count if isinstance(count, int) and count > 0 else None


def has_position_table(network: PreTrainedModel) -> bool:
    """Whether positions have learned embeddings, of which there are so many and no more."""
    count, words = position_count(network) or 0, network.get_input_embeddings()
    return any(
        isinstance(module, nn.Embedding)
        and module is not words
        and 0 <= module.num_embeddings - count <= LEARNED
        for module in network.modules()
    )


def check_same_tokens(
    other: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: TextSettings,
    *read: TextRows,
) -> None:
    """Raises UserError where the model that is named as reference does not read the same tokens.

    Its embedding may have more or fewer rows: sizes are padded, and differ within a family.
    """
    name, flag = str(settings.ref_model_name_or_path), "ref_model_name_or_path"
    check_same_words(find_tokenizer(name, flag, other, settings), tokenizer, flag, name)
    check_rows(other, flag, name, *read)


def check_same_words(
    theirs: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase, flag: str, name: str
) -> None:
    """Raises UserError where the tokenizer of the model that ``flag`` names is another one."""
    words = {word for word, _ in vocabulary(theirs) ^ vocabulary(tokenizer)}
    if words:
        raise UserError(
            f"--{flag} {name}: has another tokenizer ({len(words)} words differ, such as"
            f" {short(repr(min(words)), 40)}); policy and reference must read the same tokens"
        )


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> set[tuple[str, int]]:
    """All words with their numbers."""
    return set(tokenizer.get_vocab().items())
