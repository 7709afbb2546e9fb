"""What is set about weights in shares: by flags, and in accelerate's configuration."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file

from diffdpo.engine.sharding import first_place, named_layers
from diffdpo.errors import UserError
from diffdpo.image.settings import ImageSettings
from diffdpo.text.settings import TextSettings
from tests.conftest import ROOT


def test_settings_that_do_not_go_with_shares_are_named():
    text = TextSettings(torch_compile=True, use_adafactor=True, mixed_precision="fp16")
    lines = [line.split(":")[0] for line in text.problems_in_shares()]
    assert lines == ["--torch_compile", "--use_adafactor", "--mixed_precision fp16"]
    image = ImageSettings(rank=4, offload=True, base_precision="fp8")
    assert [line.split(":")[0] for line in image.problems_in_shares()] == [
        "--offload",
        "--base_precision fp8",
    ]
    for bits in ("bf16", "int8", "fp8_torchao"):
        assert not ImageSettings(rank=4, base_precision=bits).problems_in_shares()


def test_accelerates_own_names_of_layers_are_taken_or_refused(monkeypatch):
    network = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Linear(2, 2)), torch.nn.ReLU())
    assert not named_layers(network)
    monkeypatch.setenv("FSDP_TRANSFORMER_CLS_TO_WRAP", "Linear, Sequential")
    assert named_layers(network)[0] is network[0][0]  # the inner ones first
    monkeypatch.setenv("FSDP_TRANSFORMER_CLS_TO_WRAP", "GPT9Block")
    with pytest.raises(UserError, match="GPT9Block: the network has no such layer"):
        named_layers(network)


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "multi_node"])
def test_the_ready_files_are_accelerates(name):
    """Its own reader knows every key."""
    config = load_config_from_file(str(ROOT / f"scripts/accelerate/{name}.yaml"))
    assert config.num_processes == 8 * config.num_machines
    if name == "ddp":
        assert config.distributed_type == "MULTI_GPU"
    else:
        assert config.distributed_type == "FSDP"
        assert config.fsdp_config["fsdp_version"] == 2


@pytest.mark.parametrize(
    ("is_fsdp2", "runs_whole", "place"),
    [(True, False, "cpu"), (True, True, "cuda"), (False, False, "cuda")],
)
def test_a_network_waits_for_its_shares_in_host_memory(is_fsdp2, runs_whole, place):
    accelerator = SimpleNamespace(is_fsdp2=is_fsdp2, device=torch.device("cuda"))
    assert first_place(accelerator, runs_whole) == torch.device(place)
