"""A run goes on with the pictures that it began with, or not at all."""

import json

import pytest

from diffdpo.cli import main
from tests.factory import picture


@pytest.mark.parametrize("name", ["w1.png", "l0.png"])
def test_pictures_replaced_between_stop_and_resume_are_noticed(models, tmp_path, capsys, name):
    data = tmp_path / "data"
    data.mkdir()
    for index in range(4):
        picture(index).save(data / f"w{index}.png")
        picture(10 + index).save(data / f"l{index}.png")
    rows = [{"chosen": f"w{n}.png", "rejected": f"l{n}.png", "prompt": f"p{n}"} for n in range(4)]
    (data / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def train(*words):
        flags = ["--pretrained_model_name_or_path", models(), "--dataset_name", data, "--rank", 2]
        flags += ["--output_dir", tmp_path / "run", "--resolution", 32, "--report_to", "none"]
        flags += ["--train_batch_size", 2, "--checkpointing_steps", 1]
        return main(["train_diffusion_dpo", *map(str, flags), *words])

    assert train("--max_train_steps", "1") == 0
    assert train("--max_train_steps", "2", "--resume_from_checkpoint", "latest") == 0
    picture(50).save(data / name)
    assert train("--max_train_steps", "3", "--resume_from_checkpoint", "latest") == 2
    assert "data" in capsys.readouterr().err.splitlines()[-1]
