"""The bundled reviews and their language model are what their files say, and train without
arguments."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from diffdpo.cli import run_command
from diffdpo.config import parse
from diffdpo.text.reading.inputs import with_bundled_reviews
from diffdpo.text.settings import TextSettings
from tests.factory import read_jsonl

ASSETS = Path(__file__).parent.parent / "assets"
MODEL = ASSETS / "reviews-model"
SPLITS = ("train", "validation", "test")
ONE_STEP = "--max_train_steps 1 --report_to none --output_dir".split()


def table(kind, split):
    return pd.read_parquet(ASSETS / "reviews" / kind / f"{split}-00000.parquet")


def sides(rows):
    return [rows.prompt + rows[name] for name in ("chosen", "rejected")]


def test_sizes():
    megabytes = {
        folder: sum(p.stat().st_size for p in (ASSETS / folder).rglob("*.*")) / 1e6
        for folder in ("reviews", "reviews-model")
    }
    assert megabytes["reviews-model"] <= 10
    assert megabytes["reviews"] <= 2


def test_the_licence_lies_beside_the_texts():
    licence = (ASSETS / "reviews" / "LICENSE").read_text()
    assert "The MIT License" in licence
    assert "Copyright (c) 2016 C.J. Hutto" in licence


def test_texts_of_the_three_splits_are_disjoint():
    texts = [set(table("texts", split).text.str.lower()) for split in SPLITS]
    assert [len(found) for found in texts] == [len(table("texts", split)) for split in SPLITS]
    assert not texts[0] & texts[1]
    assert not texts[2] & (texts[0] | texts[1])


@pytest.mark.parametrize("split", SPLITS)
def test_pairs_are_rated_texts_of_their_split_each_once(split):
    rows, texts = table("pairs", split), table("texts", split)
    rating = dict(zip(texts.text, texts.rating, strict=True))
    chosen, rejected = sides(rows)
    assert len({*chosen, *rejected}) == 2 * len(rows)
    assert chosen.map(rating).tolist() == rows.score_chosen.tolist()
    assert rejected.map(rating).tolist() == rows.score_rejected.tolist()
    assert rows.score_chosen.min() >= 1
    assert rows.score_rejected.max() <= -1
    lengths = pd.concat([chosen.str.len(), rejected.str.len()], axis=1)
    assert (lengths.max(axis=1) / lengths.min(axis=1)).max() <= 1.2


@pytest.mark.parametrize("split", SPLITS)
def test_labels_are_the_sign_of_the_rating(split):
    rows, texts = table("labels", split), table("texts", split)
    rating = (rows.prompt + rows.completion).map(dict(zip(texts.text, texts.rating, strict=True)))
    assert rating.abs().min() >= 1
    assert ((rating > 0) == rows.label).all()


def test_the_perplexity_is_what_its_file_says():
    said = json.loads((MODEL / "perplexity.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    nats = tokens = 0
    for text in table("texts", "validation").text[:200]:
        ids = torch.tensor([*tokenizer(text)["input_ids"], tokenizer.eos_token_id])
        with torch.no_grad():
            logp = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
        nats -= logp.gather(1, ids[1:, None]).sum().item()
        tokens += len(ids) - 1
    assert nats / tokens == pytest.approx(said["validation_nats_per_token"], abs=0.1)


def test_without_arguments_the_bundled_reviews_are_trained_on():
    settings = with_bundled_reviews(parse(TextSettings, [])[0])
    assert str(settings.model_name_or_path).endswith("assets/reviews-model")
    assert settings.dataset_name[0].endswith("assets/reviews/pairs")
    assert settings.max_length == 128  # of the recipe


@pytest.mark.parametrize("name", ["model_name_or_path", "dataset_name"])
def test_one_without_the_other_is_one_line(name, capsys):
    assert run_command("train_text_dpo", [f"--{name}", "x"]) == 2
    assert (
        capsys.readouterr().err
        == "error: --model_name_or_path and --dataset_name: name both, or none for the bundled"
        " ones\n"
    )


@pytest.mark.parametrize(("loss", "start"), [("sigmoid", 0.6931), ("kto", 0.5)])
def test_the_bundled_pairs_train(loss, start, tmp_path):
    assert run_command("train_text_dpo", [*ONE_STEP, str(tmp_path), "--loss_type", loss]) == 0
    assert read_jsonl(tmp_path / "metrics.jsonl")[0]["loss"] == pytest.approx(start, abs=1e-4)


def test_the_bundled_labels_train(tmp_path, capsys):
    where = [
        "--model_name_or_path",
        str(MODEL),
        "--dataset_name",
        str(ASSETS / "reviews" / "labels"),
    ]
    assert (
        run_command("train_text_dpo", [*ONE_STEP, str(tmp_path), *where, "--loss_type", "kto"]) == 0
    )
    assert "labelled items of 8,171 rows" in capsys.readouterr().out
