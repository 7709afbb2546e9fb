"""What callbacks hear of a run, and what follows from their wishes."""

import json
from types import SimpleNamespace

import pytest
import torch
from datasets import load_dataset
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from transformers import TrainerCallback

import diffdpo
from diffdpo.engine.callbacks import Callbacks
from diffdpo.engine.checkpoint_state import FILE
from tests.factory import read_jsonl


class Listener(diffdpo.Callback):
    """Keeps what it hears, and answers with the wishes it is given by step."""

    def __init__(self, **wishes):
        self.wishes, self.records, self.figures, self.saved = wishes, [], [], []

    def on_log(self, record):
        self.records.append(dict(record))
        return self.wishes.get(f"log_{record['step']}")

    def on_evaluate(self, step, figures):
        self.figures.append({"step": step, **figures})
        return self.wishes.get(f"evaluate_{step}")

    def on_save(self, step, folder):
        assert json.loads((folder / FILE).read_text())["step"] == step  # it is whole
        self.saved.append((step, folder.name))


@pytest.fixture
def run(lm, data, tmp_path):
    def run(name, *callbacks, **changes):
        settings = {"max_train_steps": 6, "train_batch_size": 4, "report_to": "none"}
        settings |= {"logging_steps": 1, "learning_rate": 1e-3, "lr_scheduler": "constant"}
        return diffdpo.train_text(
            model_name_or_path=str(lm),
            dataset_name=str(data["pairs"]),
            output_dir=str(tmp_path / name),
            callbacks=callbacks,
            **settings | changes,
        )

    return run


def test_callbacks_hear_what_is_written(run, data, tmp_path):
    heard = Listener()
    held_out = {"eval_strategy": "steps", "eval_steps": 3, "eval_generations": 0}
    held_out |= {"eval_dataset_name": [str(data["chats"])], "dataset_test_split": "train"}
    held_out["checkpointing_steps"] = 2
    result = run("a", heard, **held_out, logging_steps=3)
    assert result.finished
    assert heard.records == read_jsonl(tmp_path / "a" / "metrics.jsonl")
    assert heard.figures == read_jsonl(tmp_path / "a" / "eval.jsonl")
    assert [line["step"] for line in heard.figures] == [3, 6]
    assert heard.saved == [(step, f"checkpoint-{step}") for step in (2, 4, 6)]


def test_a_wish_to_end_gives_the_result_of_a_run_that_was_as_long(run, tmp_path):
    heard = Listener(log_1=diffdpo.Wish(save=True), log_3=diffdpo.Wish(end=True))
    result = run("ended", heard)
    assert result.finished
    assert [line["step"] for line in result.metrics] == [1, 2, 3]
    assert [step for step, _ in heard.saved] == [1, 3]
    run("whole", max_train_steps=3)
    one, other = (load_file(tmp_path / n / "model.safetensors") for n in ("ended", "whole"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    # It goes on from there like any run, whatever the callback wished then.
    run("ended", resume_from_checkpoint="latest")
    assert [line["step"] for line in read_jsonl(tmp_path / "ended" / "metrics.jsonl")][-1] == 6


def test_a_run_of_pictures_may_be_ended(models, pairs, tmp_path):
    heard = Listener(log_2=diffdpo.Wish(end=True))
    files = {"train": str(pairs / "*.parquet")}
    result = diffdpo.train_images(
        dataset=load_dataset("parquet", data_files=files, split="train"),
        pipeline=StableDiffusionPipeline.from_pretrained(models(), safety_checker=None),
        output_dir=str(tmp_path / "run"),
        callbacks=[heard],
        rank=4,
        resolution=32,
        max_train_steps=5,
        train_batch_size=4,
        logging_steps=2,
        report_to="none",
    )
    assert result.finished
    assert len(result.metrics) == 2
    assert (tmp_path / "run" / "pytorch_lora_weights.safetensors").is_file()


def test_a_wish_of_one_process_is_that_of_all():
    """Two processes that add up what they have, as accelerate does."""
    both = [Callbacks([Listener(evaluate_4=wish)]) for wish in (None, diffdpo.Wish(end=True))]
    for one in both:
        one.evaluated(4, {})
        assert one.heard
    own = [torch.tensor([float(one.wish.save), float(one.wish.end)]) for one in both]
    process = SimpleNamespace(
        num_processes=2, device="cpu", reduce=lambda mine: mine + own[int(mine.sum() == 0)]
    )
    for one in both:
        assert one.agreed(process) == diffdpo.Wish(save=True, end=True)
        assert one.ended
        assert not one.heard
        assert one.agreed(SimpleNamespace(num_processes=1)) == diffdpo.Wish()


class Junk(diffdpo.Callback):
    def on_log(self, record):
        return "stop"


def test_what_is_no_callback_and_no_wish_is_a_line(run, tmp_path):
    with pytest.raises(diffdpo.UserError, match="callbacks: TrainerCallback is no object of a"):
        run("a", TrainerCallback())
    assert not (tmp_path / "a").exists()
    with pytest.raises(diffdpo.UserError, match=r"callbacks: Junk returned 'stop', no diffdpo"):
        run("b", Junk())
