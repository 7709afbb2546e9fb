"""The public face: objects in memory, callbacks, threads, two runs in one process."""

import json
import threading

import pytest
import torch
from datasets import load_dataset
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import diffdpo
from diffdpo.commands.api import IN_MEMORY
from tests.commands.image_runs import flags, metrics, train
from tests.factory import read_jsonl
from tests.text import runs

IMAGE_RUN = {
    "resolution": 32,
    "max_train_steps": 2,
    "train_batch_size": 4,
    "learning_rate": 1e-3,
    "report_to": "none",
}


def without_times(records):
    return [{k: v for k, v in line.items() if k != "pairs_per_second"} for line in records]


@pytest.fixture
def pipeline(models):
    return StableDiffusionPipeline.from_pretrained(models(), safety_checker=None)


@pytest.fixture
def dataset(pairs):
    files = {"train": str(pairs / "*.parquet")}
    return load_dataset("parquet", data_files=files, split="train")


@pytest.mark.parametrize("rank", [4, None])
def test_a_run_in_memory_is_the_run_of_the_command_line(
    models, pairs, pipeline, dataset, tmp_path, rank
):
    out = tmp_path / "memory"
    result = diffdpo.train_images(
        dataset=dataset, pipeline=pipeline, output_dir=str(out), rank=rank, **IMAGE_RUN
    )
    train(*flags(models(), pairs, tmp_path / "flags", **{"rank": rank} | IMAGE_RUN))
    assert without_times(result.metrics) == metrics(tmp_path / "flags")
    assert (result.folder, result.finished) == (out, True)
    assert result.network is pipeline.unet
    assert pipeline.vae is not None
    assert IN_MEMORY in (out / "config.yaml").read_text()
    if rank is None:
        saved = UNet2DConditionModel.from_pretrained(out / "unet").state_dict()
        trained = pipeline.unet.state_dict()
        assert all(torch.equal(saved[name], trained[name]) for name in trained)


def test_stored_numbers_of_a_pipeline_in_memory_are_found_again(
    pipeline, dataset, models, tmp_path, capsys
):
    shared = {**IMAGE_RUN, "rank": 4, "precompute_dir": str(tmp_path / "tables")}
    shared |= {"cache_latents": True, "reference_draws": 1}

    def run(name, pipe):
        diffdpo.train_images(
            dataset=dataset, pipeline=pipe, output_dir=str(tmp_path / name), **shared
        )
        return capsys.readouterr().out

    assert run("a", pipeline).count("computing") == 3
    assert "computing" not in run("b", StableDiffusionPipeline.from_pretrained(models()))
    with torch.no_grad():
        pipeline.vae.encoder.conv_in.weight += 0.1
    other = StableDiffusionPipeline.from_pretrained(models(), vae=pipeline.vae)
    assert "those stored differ in autoencoder" in run("c", other)


def test_text_with_model_and_tokenizer_in_memory(lm, data, tmp_path):
    rows = load_dataset("json", data_files=str(data["pairs"]), split="train")
    model = AutoModelForCausalLM.from_pretrained(lm, dtype=torch.float32)
    seen = []
    result = diffdpo.train_text(
        dataset=rows,
        model=model,
        tokenizer=AutoTokenizer.from_pretrained(lm),
        output_dir=str(tmp_path / "memory"),
        max_train_steps=3,
        train_batch_size=4,
        learning_rate=1e-3,
        logging_steps=1,
        report_to="none",
        on_step=lambda record: seen.append(record["step"]),
    )
    words = runs.flags(lm, data["pairs"], tmp_path / "flags", max_train_steps=3)
    runs.train(*words, "--logging_steps", "1")
    assert without_times(result.metrics) == runs.metrics(tmp_path / "flags")
    assert seen == [1, 2, 3]
    assert result.network is model


def test_two_runs_in_one_process_in_threads_with_other_precisions(lm, data, tmp_path):
    def run(precision):
        diffdpo.train_text(
            model_name_or_path=str(lm),
            dataset_name=str(data["pairs"]),
            output_dir=str(tmp_path / precision),
            mixed_precision=precision,
            max_train_steps=1,
            report_to="none",
        )

    for precision in ("no", "bf16", "no"):
        thread = threading.Thread(target=run, args=(precision,))
        thread.start()
        thread.join()
        (line,) = read_jsonl(tmp_path / precision / "metrics.jsonl")
        assert line["loss"] == pytest.approx(0.693147, abs=1e-6)
        if precision == "no":
            for path in tmp_path.glob("no/*"):
                path.rename(tmp_path / f"{path.name}-{len(list(tmp_path.iterdir()))}")
    assert (tmp_path / "bf16" / "config.yaml").read_text().count("mixed_precision: bf16") == 1


def test_evaluate_returns_what_it_writes(lm, data, tmp_path):
    diffdpo.train_text(
        model_name_or_path=str(lm),
        dataset_name=str(data["pairs"]),
        output_dir=str(tmp_path / "run"),
        max_train_steps=1,
        report_to="none",
    )
    figures = diffdpo.evaluate(
        tmp_path / "run",
        split="train",
        num_prompts=2,
        max_new_tokens=2,
        reward=["sentiment"],
        output_dir=str(tmp_path / "figures"),
    )
    assert figures == json.loads((tmp_path / "figures" / "evaluation.json").read_text())
    assert 0 <= figures["win_rate"]["value"] <= 1


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"learning_rte": 1}, "unknown setting 'learning_rte' (did you mean learning_rate?)"),
        ({"train_batch_size": "many"}, "--train_batch_size: invalid int value: 'many'"),
        ({"loss_type": ["sigmoidd"]}, "did you mean sigmoid?"),
        ({"max_train_steps": 0}, "--max_train_steps must be at least 1, got 0"),
        ({"output_dir": {"a": 1}}, "output_dir is nested"),
    ],
)
def test_settings_are_checked_as_on_the_command_line(settings, line):
    with pytest.raises(diffdpo.UserError) as error:
        diffdpo.train_text(**settings)
    assert line in "\n".join(error.value.mistakes)


def test_every_public_name_is_there_and_nothing_else_is_promised():
    for name in diffdpo.__all__:
        assert getattr(diffdpo, name) is not None
    assert set(diffdpo.__all__) == set(diffdpo.HOMES)
    assert diffdpo.__version__
    with pytest.raises(AttributeError, match="no attribute 'tran'"):
        _ = diffdpo.tran
