"""The output head alone: every one computes the same, and the command writes its table."""

import json

import pytest
import torch

from diffdpo import cli
from diffdpo.cli import Command
from scripts.benchmark.heads import CHECKED, HEADS, HeadSettings, blank_scorer

SMALL = HeadSettings(positions=CHECKED, vocabulary=503, width=16)


@pytest.mark.parametrize("name", HEADS)
def test_every_head_is_the_plain_one(name):
    if name == "trl":
        pytest.importorskip("trl")
    torch.manual_seed(0)
    scorer = blank_scorer(SMALL)
    weight = scorer.network.get_output_embeddings().weight
    states = torch.randn(SMALL.positions, SMALL.width)
    target = torch.randint(SMALL.vocabulary, (SMALL.positions,))
    results = []
    for head in (HEADS["naive"], HEADS[name]):
        hidden, weight.grad = states.clone().requires_grad_(), None
        logp = head(scorer, hidden, target)
        logp.sum().backward()
        results.append((logp.detach(), hidden.grad, weight.grad))
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_command_measures_one_head_in_its_process(capsys):
    row = Command("", "scripts.benchmark.heads:HeadSettings", "", module="heads")
    shape = ["--positions", "64", "--vocabulary", "5003", "--width", "16"]
    words = ["--only", "ours", *shape]
    assert cli.run(row, "scripts.benchmark.heads", "benchmark head", words) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["error"] < 1e-4
    assert len(found["wall"]) == 2
    assert found["memory"] > 0
