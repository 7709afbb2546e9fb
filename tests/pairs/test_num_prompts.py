"""Pairs of the first so many prompts, of a file or of the data."""

from types import SimpleNamespace

import pytest

from diffdpo.image.pair_settings import PairSettings
from diffdpo.image.sampling.candidates import prompts_of
from diffdpo.text.sampling.candidates import read_texts


@pytest.mark.parametrize("count", [1, 3, None])
def test_the_first_so_many_of_a_file(tmp_path, count):
    (tmp_path / "p.txt").write_text("a\nb\na\nc\n")
    settings = PairSettings(prompts=str(tmp_path / "p.txt"), num_prompts=count)
    assert prompts_of(settings) == ["a", "b", "c"][:count]


@pytest.mark.parametrize("template", [None, "{{ messages }}"])
def test_texts_have_as_many_tokens_as_prompts(tmp_path, monkeypatch, template):
    monkeypatch.setattr(
        "diffdpo.text.sampling.candidates.prompt_tokens", lambda prompt, tokenizer: [1]
    )
    (tmp_path / "p.txt").write_text("a\nb\nc\n")
    settings = SimpleNamespace(prompts=str(tmp_path / "p.txt"), num_prompts=2, split="train",
                               dataset_config=None, cache_dir=None,
                               chat_template_kwargs=None)  # fmt: skip
    prompts, tokens = read_texts(settings, SimpleNamespace(chat_template=template))
    assert len(prompts) == len(tokens) == 2


def test_the_first_so_many_of_the_pairs(pairs):
    settings = PairSettings(
        pretrained_model_name_or_path="m", dataset_name=str(pairs), num_prompts=4, resolution=32
    )
    whole = prompts_of(PairSettings(**{**vars(settings), "num_prompts": None}))
    assert prompts_of(settings) == whole[:4]
    assert len(whole) > 4
