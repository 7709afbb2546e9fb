"""Tokenizers and text encoders at the door: lengths, added tokens, prompts that are cut."""

import pytest
import torch
from datasets import Dataset

from diffdpo.image.backbones import family_of, load_backbone
from tests.commands.image_runs import flags, train
from tests.factory import FAMILIES, changed, pickapic_rows
from tests.families.work import fresh
from tests.image.doors import SDXL, refused


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tokenizer_without_a_length_gets_the_text_encoders(family, models, tmp_path):
    folder = changed(
        models(family), tmp_path / "m", "tokenizer/tokenizer_config.json", model_max_length=None
    )
    backbone, whole = load_backbone(str(folder)), fresh(models(family))
    assert backbone.longest_prompt == 16
    prompts = ["a", "a prompt that is longer than sixteen tokens"]
    for name, value in whole.encode_prompts(prompts).items():
        assert torch.equal(backbone.encode_prompts(prompts)[name], value)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_of_two_vectors_is_encoded_as_in_sampling(family, models, tmp_path):
    pipeline = fresh(models(family)).pipeline
    torch.manual_seed(5)
    encoders = [("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")]
    for tokenizer, encoder in encoders[: 1 + (family == SDXL)]:
        pipeline.load_textual_inversion(
            {"<blob>": torch.randn(2, 32)},
            token="<blob>",
            tokenizer=getattr(pipeline, tokenizer),
            text_encoder=getattr(pipeline, encoder),
        )
    pipeline.save_pretrained(tmp_path / "model")
    backbone = load_backbone(str(tmp_path / "model"))
    actual = backbone.encode_prompts(["a <blob>"])
    again = family_of(family).pipeline_class.from_pretrained(tmp_path / "model")
    tokens = again.encode_prompt("a <blob>", device="cpu", num_images_per_prompt=1,
                                 do_classifier_free_guidance=False)[0]  # fmt: skip
    assert torch.equal(actual["tokens_NLD"], tokens)
    # Both vectors take part: the first one alone gives something else.
    with torch.no_grad():
        ids = backbone.pipeline.tokenizer("a <blob>", padding="max_length", return_tensors="pt")
        first = backbone.pipeline.text_encoder(ids.input_ids, output_hidden_states=True)
    alone = first.hidden_states[-2] if family == SDXL else first[0]
    assert not torch.allclose(tokens[..., :32], alone, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_that_are_cut_are_counted(family, models):
    backbone = fresh(models(family))  # 16 tokens, one a letter, with begin and end
    assert backbone.longest_prompt == 16
    assert backbone.cut_prompts(["a" * 14, "b" * 15, "", "c" * 99]) == 2
    assert backbone.cut_prompts([]) == 0


def test_text_encoders_that_give_no_vector_for_every_token_are_refused(models, tmp_path):
    """Of an encoder with a projection the first output is one vector a prompt."""
    kind = ["transformers", "CLIPTextModelWithProjection"]
    pipeline = fresh(models(SDXL)).pipeline
    folder = changed(models(), tmp_path / "projected", "model_index.json", text_encoder=kind)
    pipeline.text_encoder_2.save_pretrained(folder / "text_encoder")
    refused(folder, "text encoders: ")
    kind = ["transformers", "CLIPTextModel"]
    folder = changed(models(SDXL), tmp_path / "bare", "model_index.json", text_encoder_2=kind)
    pipeline.text_encoder.save_pretrained(folder / "text_encoder_2")
    refused(folder, "text encoders: ")


def test_the_first_lines_of_a_run_count_the_prompts_that_are_cut(models, tmp_path, capsys):
    rows = [
        row | {"caption": "a" * (10 + index // 2)} for index, row in enumerate(pickapic_rows(16))
    ]
    (tmp_path / "pairs").mkdir()
    Dataset.from_list(rows).to_parquet(tmp_path / "pairs" / "train.parquet")
    train(*flags(models(), tmp_path / "pairs", tmp_path / "run", rank=2, max_train_steps=1))
    said = " ".join(capsys.readouterr().out.split())
    # Eight prompts of 10 to 17 letters, one token each; begin and end are two more.
    assert "3 of 8 prompts are longer than 16 tokens and are cut" in said
