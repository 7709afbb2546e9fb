"""The KL against its closed form, and what two equal models must give."""

from contextlib import nullcontext

import pytest
import torch

from diffdpo.text.sampling.comparison import log_ratios, pair_margins
from diffdpo.text.sampling.generate import SampleSettings, sample
from diffdpo.text.scoring.scorer import TokenScorer
from diffdpo.text.task import TextTask
from diffdpo.text.tokens.row_reader import TextItem
from tests.text.factory import model

TASK = TextTask(torch.device("cpu"), nullcontext)
ITEMS = [TextItem(i, (5, 6 + i), ((7, 8, 9), (10 + i, 11))) for i in range(5)]


@pytest.fixture(scope="module")
def scorers():
    return TokenScorer(model(0).eval()), TokenScorer(model(1).eval())


def test_the_mean_log_ratio_is_the_kl(scorers):
    """One token after one prompt: Σ p log(p/q), within four standard errors."""
    policy, reference = scorers
    prompt, settings = (5, 6, 7), SampleSettings(visits=3000, max_new_tokens=1, batch_size=3000)
    drawn = sample(policy.network, [prompt], (), settings)
    ratio_N = log_ratios(TASK, policy, reference, [prompt] * 3000, drawn, 1000)
    with torch.no_grad():
        p, q = (
            s.network(input_ids=torch.tensor([prompt])).logits[0, -1].log_softmax(0)
            for s in scorers
        )
    kl = (p.exp() * (p - q)).sum().item()
    assert kl > 0.5  # or an estimate of 0 would pass
    assert ratio_N.mean().item() == pytest.approx(kl, abs=4 * ratio_N.std().item() / 3000**0.5)


def test_a_model_is_no_distance_from_itself(scorers):
    prompts, completions = zip(*((item.prompt, item.completions[0]) for item in ITEMS), strict=True)
    assert (log_ratios(TASK, scorers[0], scorers[0], prompts, completions, 2) == 0).all()
    assert (pair_margins(TASK, scorers[0], scorers[0], ITEMS, 2) == 0).all()


def test_margins_are_differences_of_log_ratios_whatever_the_batch(scorers):
    margin_B = pair_margins(TASK, *scorers, ITEMS, 2)
    sides = [[item.completions[side] for item in ITEMS] for side in (0, 1)]
    chosen, rejected = (
        log_ratios(TASK, *scorers, [item.prompt for item in ITEMS], side, 5) for side in sides
    )
    assert torch.allclose(margin_B, chosen - rejected, atol=1e-4)
    assert margin_B.abs().min() > 0  # or zeros would equal zeros
