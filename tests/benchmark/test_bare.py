"""The network alone: what is timed is the model's own loss on the same tokens."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset

from diffdpo.text.reading.rows import TextRows
from diffdpo.text.scoring.batch import collate, make_draw
from diffdpo.text.scoring.scorer import TokenScorer
from diffdpo.text.tokens.row_reader import RowSettings
from scripts.benchmark.bare import text_passes
from tests.text.factory import model, pair_rows, tokenizer


def test_text_is_the_cross_entropy_of_every_completion():
    items = TextRows(Dataset.from_list(pair_rows(3)), tokenizer(), RowSettings()).items
    draw = make_draw(collate(items), torch.device("cpu"))
    network = model()
    task = SimpleNamespace(autocast=nullcontext)
    losses = list(text_passes(task, TokenScorer(network), draw))

    def expected(prompt, completion):
        logp = network(torch.tensor([[*prompt, *completion]])).logits[0].double().log_softmax(-1)
        steps = enumerate(completion, start=len(prompt) - 1)
        return -sum(logp[index, token].item() for index, token in steps) / len(completion)

    by_pair = [expected(item.prompt, answer) for item in items for answer in item.completions]
    assert [loss.item() for loss in losses] == pytest.approx(by_pair, rel=1e-5)
    losses[0].backward()
    assert network.lm_head.weight.grad.abs().sum() > 0
