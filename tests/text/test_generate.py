"""Sampling against the model's own distribution, and its randomness as a function of (seed, prompt,
visit)."""

from dataclasses import replace

import pytest
import torch

from diffdpo.text.sampling.generate import SampleSettings, draw, ends_of, sample, uniforms
from tests.text.factory import BARE, CHATML, MARKS, model, tokenizer, user

END = 1
PROMPTS = [(5, 6, 7), (8, 9), (10, 11, 12), (13,)]
SETTINGS = SampleSettings(seed=3, visits=2, max_new_tokens=9, batch_size=3)


@pytest.fixture(scope="module")
def network():
    return model().eval()


def test_inversion_gives_every_token_its_share():
    """At evenly spaced numbers, counts are the probabilities to one."""
    logits = torch.tensor([2.0, -1.0, 0.5, 0.0, float("-inf")])
    count = 2000
    drawn = draw(logits.expand(count, -1), (torch.arange(count) + 0.5) / count)
    expected = count * logits.softmax(0)
    assert (drawn.bincount(minlength=5) - expected).abs().max() <= 1


def test_the_edges_draw_possible_tokens():
    logits = torch.tensor([[float("-inf"), 0.0, 0.0, float("-inf")]] * 2)
    # A sampler that is off by one at either edge draws a token of probability 0 here.
    assert draw(logits, torch.tensor([0.0, 1 - 1e-12], dtype=torch.float64)).tolist() == [1, 2]


def test_with_a_cache_as_without(network):
    """Token by token with the whole text read anew."""
    prompt, uniform = (
        PROMPTS[0],
        torch.from_numpy(uniforms(SETTINGS.seed, PROMPTS[0], 1, SETTINGS.max_new_tokens)),
    )
    ids = list(prompt)
    for number in uniform:
        with torch.no_grad():
            logits = network(input_ids=torch.tensor([ids])).logits[:, -1]
        ids += draw(logits, number[None]).tolist()
        if ids[-1] == END:
            break
    assert sample(network, PROMPTS, (END,), SETTINGS)[1] == ids[len(prompt) :]


def test_a_continuation_depends_on_seed_prompt_and_visit_alone(network):
    continuations = sample(network, PROMPTS, (END,), SETTINGS)
    assert len(continuations) == 8
    for batch_size in (1, 8):
        assert (
            sample(network, PROMPTS, (END,), replace(SETTINGS, batch_size=batch_size))
            == continuations
        )
    # The last prompt comes first now and still continues as before: its row number plays no part.
    assert sample(network, PROMPTS[::-1], (END,), SETTINGS)[:2] == continuations[-2:]
    assert sample(network, PROMPTS, (END,), replace(SETTINGS, seed=4)) != continuations
    assert continuations[0] != continuations[1]


def test_a_continuation_ends_once_or_is_cut(network):
    # So many that some end by themselves and some are cut.
    continuations = sample(
        network, PROMPTS, (END,), replace(SETTINGS, visits=60, max_new_tokens=30)
    )
    assert {ids.count(END) for ids in continuations} == {0, 1}
    for ids in continuations:
        assert (ids[-1] == END) == (END in ids)
        assert END in ids or len(ids) == 30


def test_of_several_ends_the_first_that_comes_is_the_end(network):
    settings = replace(SETTINGS, visits=60, max_new_tokens=30)
    ends = tuple(range(1, 40))
    continuations = sample(network, PROMPTS, ends, settings)
    assert len({ids[-1] for ids in continuations}) > 5
    for ids in continuations:
        assert not {*ids[:-1]} & {*ends}
        assert ids[-1] in ends or len(ids) == 30


def test_an_answer_ends_with_the_turn_the_eos_and_what_the_model_names():
    turn, chat = MARKS.index("<|im_end|>"), [[user("hi")]]
    network = model()
    assert ends_of(network, tokenizer(CHATML), chat) == (turn, END)
    assert ends_of(network, tokenizer(CHATML), ["hi"]) == (END,)
    assert ends_of(network, tokenizer(BARE), chat) == (END,)  # it writes no mark behind an answer
    assert ends_of(network, tokenizer(None), chat) == (END,)
    network.generation_config.eos_token_id = [7, END, 8]
    assert ends_of(network, tokenizer(CHATML), chat) == (turn, END, 7, 8)
