"""Streamed pictures are those of the same rows loaded whole, and a run on them is TRL's command."""

import math
from types import SimpleNamespace

import pytest
import torch

from diffdpo.data.places import Place
from diffdpo.data.source import open_dataset
from diffdpo.data.streams.table import StreamTable
from diffdpo.errors import UserError
from diffdpo.text.reading.inputs import check_unmixed
from diffdpo.text.tokens.row_reader import RowSettings
from diffdpo.text.vision.rows import PictureRows, check_processes
from diffdpo.text.vision.sight import Sight
from diffdpo.text.vision.streamed import StreamedPictures
from tests.data.shards import parquet_shards
from tests.text import vision_factory as vision
from tests.text.factory import assistant, user
from tests.text.runs import metrics, train

SETTINGS = RowSettings(in_parts=True)
SIGHT = Sight(vision.processor("qwen3_vl"))


def rows_with(count):
    """Rows of one picture, and a last one without any."""
    rows = [
        {
            "images": [{"bytes": vision.png(vision.picture(number)), "path": None}],
            "prompt": [user(f"What is in {number}?")],
            "chosen": [assistant(f"cat {number}")],
            "rejected": [assistant("none")],
        }
        for number in range(count)
    ]
    return [*rows, {**rows[0], "images": [], "prompt": [user("Is it?")]}]


@pytest.fixture
def both(tmp_path):
    """The rows streamed, and loaded whole."""
    folder = tmp_path / "data"
    parquet_shards(folder, rows_with(9))
    stream = StreamTable.open(
        str(folder), "train", None, "--dataset_train_split", str(tmp_path / "cache"), 4, True
    )
    words, place = SIGHT.processor.tokenizer, Place()
    streamed = StreamedPictures(stream, words, SETTINGS, SIGHT, "images", place.file)
    whole = open_dataset(str(folder), "train")
    return streamed, PictureRows(whole, words, SETTINGS, SIGHT, "images", place.file)


def test_every_item_is_that_of_the_rows_loaded_whole(both):
    streamed, whole = both
    assert len(streamed) == len(whole) == 10
    for number in reversed(range(10)):
        ours, theirs = streamed.read(number, 0), whole.read(number, 0)
        assert (*ours.prompt,) == (*theirs.prompt,)
        assert [[*side] for side in ours.completions] == [[*side] for side in theirs.completions]
        assert ours.look == theirs.look
        assert (ours.pictures is None) == (theirs.pictures is None) == (number == 9)
        if ours.pictures:
            (mine,), (other,) = ours.pictures.of_item, theirs.pictures.of_item
            assert mine.keys() == other.keys()
            assert all(torch.equal(mine[name], other[name]) for name in mine)
    assert streamed.pictures_line() == {
        "pictures": "in 9 of the first 10 prompts, read by Qwen3VLProcessor"
    }
    assert "<|image_pad|>×" in "".join(streamed.preview(5))


def test_what_does_not_go_with_streamed_pictures_is_a_line(both):
    streamed, _ = both
    two = SimpleNamespace(num_processes=2, is_fsdp2=False)
    network = SimpleNamespace()
    with pytest.raises(UserError, match="--streaming: whether every row has a picture is not"):
        check_processes(streamed, network, False, two)
    check_processes(streamed, network, True, two)
    with pytest.raises(UserError, match="data sets with pictures are not mixed"):
        check_unmixed([streamed])


def test_trls_command_for_streamed_pictures(tmp_path):
    """Of examples/scripts/dpo_vlm.py, but for names and numbers of steps."""
    model = vision.save("qwen2_5_vl", tmp_path / "model")
    parquet_shards(tmp_path / "data", rows_with(9))
    words = "--dataset_streaming --per_device_train_batch_size 2 --max_steps 2 --use_peft"
    words += " --gradient_accumulation_steps 2 --dataset_num_proc 32 --dtype bfloat16"
    words += " --lora_target_modules all-linear --report_to none"
    names = f"--model_name_or_path {model} --dataset_name {tmp_path}/data"
    train(*names.split(), "--output_dir", tmp_path / "out", *words.split())
    assert metrics(tmp_path / "out")[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
