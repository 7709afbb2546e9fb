"""Other people's scripts: told apart, and run as they are."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffdpo.errors import UserError
from scripts.benchmark import stand_ins
from scripts.benchmark.contestant import Contestant, Failed
from scripts.benchmark.gate import Schedule
from scripts.benchmark.peers import STAND_INS, WHAT, recognise
from scripts.benchmark.subjects import Subject
from scripts.benchmark.worker import last_line

DIFFUSERS = 'parser.add_argument("--beta_dpo")\nparser.add_argument("--vae_encode_batch_size")\n'
SALESFORCE = 'parser.add_argument("--beta_dpo")\nparser.add_argument("--dreamlike_pairs_only")\n'
# A training script that needs torchvision, xformers and the older loop's parts; it never heard of
# the gate.
SCRIPT = """
import argparse, torch, xformers
from torchvision import transforms
from torchvision.transforms.functional import crop
from diffusers import UNet2DConditionModel
from diffusers.utils.import_utils import is_xformers_available

parser = argparse.ArgumentParser()
parser.add_argument("--beta_dpo")
parser.add_argument("--dreamlike_pairs_only")
parser.add_argument("--output_dir")
args = parser.parse_args()
if not is_xformers_available():
    raise ValueError("xformers is not available")
transforms.Compose([transforms.Resize(4, interpolation=transforms.InterpolationMode.BILINEAR)])
optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))])
while True:
    optimizer.step()
"""


def write(folder, text):
    path = folder / "train.py"
    path.write_text(text)
    return path


@pytest.mark.parametrize(("text", "kind"), [(DIFFUSERS, "diffusers"), (SALESFORCE, "salesforce")])
def test_told_apart_by_their_flags(tmp_path, text, kind):
    path = write(tmp_path, text)
    assert (recognise(str(path)).kind, recognise(str(path)).path) == (kind, path)


@pytest.mark.parametrize(
    "text", ["print()", DIFFUSERS + SALESFORCE, DIFFUSERS.replace("beta_dpo", "beta")]
)
def test_others_are_refused_in_a_line(tmp_path, text):
    with pytest.raises(
        UserError, match=r"--peer_script .*not a Diffusion-DPO script that is known here"
    ):
        recognise(str(write(tmp_path, text)))


def test_no_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        recognise(str(tmp_path / "nothing.py"))


def test_every_stand_in_is_there_and_explained():
    for names in STAND_INS.values():
        for name in names:
            assert WHAT[name]
            assert name in stand_ins.MODULES[name]()


def test_transforms_by_hand():
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    transforms = stand_ins.torchvision()["torchvision.transforms"]
    steps = [
        transforms.Resize(4),
        transforms.CenterCrop(4),
        transforms.ToTensor(),
        transforms.Normalize([0.5], [0.5]),
    ]
    tensor = transforms.Compose(steps)(Image.fromarray(pixels))
    torch.testing.assert_close(
        tensor, torch.from_numpy(pixels[:, 1:5]).permute(2, 0, 1) / 127.5 - 1
    )
    halved = transforms.Resize(2, interpolation=transforms.InterpolationMode.BILINEAR)(
        Image.fromarray(pixels)
    )
    assert halved.size == (3, 2)
    assert transforms.RandomCrop(4)(Image.fromarray(pixels)).size == (4, 4)
    flipped = {
        np.asarray(transforms.RandomHorizontalFlip()(Image.fromarray(pixels)))[0, 0, 0]
        for _ in range(40)
    }
    assert flipped == {0, 15}


def test_a_script_runs_unmodified_and_stops_at_the_gate(tmp_path):
    subject = Subject("full-fp32-salesforce", "full", "script", str(write(tmp_path, SCRIPT)), ())
    contestant = Contestant(subject, Schedule(1, 2, 1), 1, tmp_path, "run")
    try:
        reports = [contestant.hear(), contestant.turn(), contestant.turn()]
    finally:
        contestant.close()
    assert [report["kind"] for report in reports] == ["ready", "warm", "repetition"]
    assert contestant.process.returncode == 0


def test_a_command_that_fails_says_why(tmp_path):
    subject = Subject("text-fp32-live", "text", "command", "train_text_dpo", ("--beta", "x"))
    contestant = Contestant(subject, Schedule(1, 1, 0), 1, tmp_path, "run")
    try:
        contestant.hear()
        with pytest.raises(Failed, match="--beta"):
            contestant.turn()
    finally:
        contestant.close()


def test_a_failure_is_said_in_a_line():
    assert (
        last_line(ValueError("several lines\nand the last one\n")) == "ValueError: and the last one"
    )
    assert last_line(ValueError()) == "ValueError: no reason"
    assert last_line(SystemExit("nothing to train on")) == "nothing to train on"
    assert last_line(SystemExit(2)) == ""  # its own output says why
