"""Models of real shapes on a card: work, peaks, what fits, the host's share, and the command."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from diffdpo import cli
from diffdpo.cli import Command
from scripts.benchmark.card import GOALS, PEAKS, TERA, peak, work_of
from scripts.benchmark.card_report import CardReport, Row
from scripts.benchmark.card_subjects import card_subjects, fitting
from scripts.benchmark.gaps import Gaps
from scripts.benchmark.peers import Peer
from scripts.benchmark.results import Result
from scripts.benchmark.shapes import SHAPES, thin
from tests.conftest import ROOT

# Forward operations of one image in 10^12, and weights in 10^9, as published or counted elsewhere.
PUBLISHED = {"sd15": (0.803, 0.8595), "sdxl": (6.761, 2.5675), "sd35m": (None, 2.243),
             "flux": (None, 11.901)}  # fmt: skip
GIB = 2**30


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_networks_are_the_published_ones(shape):
    from scripts.benchmark.flops import forward_work

    flops, weights = forward_work(shape)
    wanted, count = PUBLISHED[shape.name]
    assert weights / 1e9 == pytest.approx(count, abs=1e-3)
    assert wanted is None or flops / TERA == pytest.approx(wanted, abs=1e-3)


def test_operations_are_those_of_the_matrices():
    """Of two layers by hand: a product of (n, k) and (k, m) is 2·n·k·m."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        torch.nn.Linear(7, 5, bias=False)(torch.empty(3, 7))
        query = torch.empty(1, 2, 11, 4)
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    assert counter.get_total_flops() == 2 * 3 * 7 * 5 + 2 * (2 * 2 * 11 * 11 * 4)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_thin_pipeline_is_one_that_is_trained(shape):
    import torch

    from diffdpo.image.backbones import backbone_of
    from scripts.benchmark.shaped import pipeline

    small = thin(shape, 64)
    backbone = backbone_of(pipeline(small, torch.device("cpu"), torch.float32))
    condition = backbone.encode_prompts(["a word"])
    full = shape.clips, shape.t5
    widths = [clip["hidden_size"] for clip in full[0]] + ([full[1]["d_model"]] if full[1] else [])
    tokens = condition["tokens_NLD"]
    # The embeddings have the published width, and as many tokens as the operations are counted for.
    assert tokens.shape[-1] == (max(widths) if shape.t5 else sum(widths))
    assert tokens.shape[1] == shape.tokens
    assert backbone.latent_shape(64) == (shape.vae.get("latent_channels", 4), 8, 8)


def test_the_work_of_a_pair_is_that_of_the_known_tables():
    sdxl, sd15 = 6.761 * TERA, 0.803 * TERA
    for forward, figures in ((sd15, (3.2, 4.8, 6.4)), (sdxl, (27.0, 40.6, 54.1))):
        kinds = (("lora", "stored"), ("lora", "live"), ("full", "live"))
        found = [work_of(*kind, forward, 1).flops / TERA for kind in kinds]
        assert found == pytest.approx(figures, abs=0.05)
    assert work_of("full", "live", 1.0, 10).held == 200
    assert work_of("full", "stored", 1.0, 10).held == 160


def test_the_goals_are_the_shares_that_they_were_set_by():
    h100 = PEAKS["H100"] * TERA
    shares = {"sdxl-lora-stored": 0.30, "sdxl-lora-live": 0.30, "sd15-lora-live": 0.25}
    for name, rate in GOALS.items():
        shape, kind, variant = name.split("-")
        work = work_of(kind, variant, PUBLISHED[shape][0] * TERA, 1)
        assert rate * work.flops / h100 == pytest.approx(shares[name], abs=0.005)


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10G", 70),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA RTX A4000", None),
        (None, None),
    ],
)
def test_peaks_by_the_name_of_the_card(name, rate):
    assert peak(name) == (None if rate is None else rate * TERA)


def test_what_does_not_fit_is_left_out_and_named(tmp_path):
    rows = card_subjects(SHAPES, False, 10, [], tmp_path)
    work = {name: (1.0, int(weights * 1e9)) for name, (_, weights) in PUBLISHED.items()}
    kept, notes = fitting(rows, work, 80 * GIB)
    gone = {row.name for row in rows} - {row.name for row in kept}
    assert gone == {"flux-full-live", "flux-full-stored"}
    assert [note.split(":")[0] for note in notes] == ["flux-full-live", "flux-full-stored"]
    assert "222 GiB" in notes[0]
    assert {row.name for row in fitting(rows, work, 24 * GIB)[0]} == {
        *("sd15-lora-live", "sd15-lora-stored", "sdxl-lora-live", "sdxl-lora-stored"),
        *("sd35m-lora-live", "sd35m-lora-stored", "sd15-full-stored"),
    }


def test_diffusers_script_stands_beside_a_row_that_stores_nothing(tmp_path):
    peer = Peer("diffusers", tmp_path / "theirs.py")
    rows = {row.name: row for row in card_subjects(SHAPES, False, 10, [peer], tmp_path)}
    ours, theirs = rows["sd15-lora-uncached"], rows["sd15-lora-diffusers"]
    assert "--cache_latents" not in ours.flags
    assert (theirs.program, ours.aside, theirs.aside) == ("script", "gaps", "")
    flags = [dict(zip(row.flags[::2], row.flags[1::2], strict=True)) for row in (ours, theirs)]
    for name in ("--dataset_name", "--resolution", "--train_batch_size", "--rank"):
        assert flags[0][name] == flags[1][name]


def test_the_share_of_the_host_is_what_no_network_fills():
    """Two counted steps of 10 s: predictions of 2 s, a backward pass of 3 s, an optimizer of 1 s;
    the step before them waited for its turn."""
    seconds = [0.0]

    def wait(length):
        seconds[0] += length

    gaps = Gaps(lambda: seconds[0])
    predict, backward = gaps.around(wait), gaps.around(wait)
    for first in (100, 4, 4):
        wait(first)
        predict(2)
        backward(3)
        gaps.before_optimizer()
        wait(1)
        gaps.after_optimizer()
    assert gaps.measure() == {"host": pytest.approx(0.4), "host_wall": pytest.approx(4)}
    assert gaps.measure() == {}


def test_the_table_of_a_card():
    good = Result("sdxl-lora-live", "g", wall=[0.25, 0.2, 0.25], host=[0.02, 0.03, 0.02], gpu=9e3)
    bad = Result("flux-lora-live", "g", error="out of | memory")
    rows = [Row(good, 2, 6.761 * TERA, 1), Row(bad, 1, TERA, 1)]
    report = CardReport({"processor": "P"}, "NVIDIA H100 80GB HBM3", {"steps": 5}, rows, ["a note"])
    text = report.markdown()
    assert text.startswith("# NVIDIA H100 80GB HBM3\n\nprocessor P, peak 989 TFLOP/s, steps 5.")
    # 8 pairs a second of 40.6 TFLOP are 324.5 of 989.
    line = (
        "| sdxl-lora-live | 2 | 0.250 [0.200, 0.250] | 8.00 [8.00, 10.00] |  | 7.3 | 40.6 | 32.8% |"
    )
    assert f"{line} 2.0% | 9,000 | 0 |" in text
    assert "| flux-lora-live | failed: out of / memory |" in text
    assert json.loads(report.as_json())["rows"][0]["share_of_peak"] == pytest.approx(
        0.328, abs=1e-3
    )
    report.card = "a card of tomorrow"
    assert "peak unknown" in report.markdown()
    assert "| 40.6 | unknown |" in report.markdown()


def test_the_work_of_a_language_model_is_that_of_its_layers(tmp_path, monkeypatch):
    """Against PyTorch's own count of a row of the same length, which takes attention in full."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    from scripts.benchmark import text_shapes, text_work
    from scripts.benchmark.text_shapes import TEXT_SHAPES, completions, make_text_data, text_work_of

    monkeypatch.setattr(text_shapes, "STEPS_OF_ROWS", 2)
    monkeypatch.setattr(text_work, "PACKAGE", text_work.PACKAGE / "ranking")  # fewer words
    shape = TEXT_SHAPES[0].thin()
    make_text_data(shape, tmp_path)
    flops, weights, tokens = text_work_of(shape, tmp_path)
    # Eager attention is made of products, which PyTorch counts; its kernel on a CPU it does not.
    model = AutoModelForCausalLM.from_config(shape.config(), attn_implementation="eager")
    assert weights == sum(weight.numel() for weight in model.parameters())
    sizes, counted = completions(shape.work(tmp_path)), 0.0
    assert tokens == pytest.approx(2 * sum(map(sum, sizes)) / len(sizes))
    for prompt, completion in sizes:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, prompt + completion, dtype=torch.long), logits_to_keep=completion)
        square = 4 * shape.network["hidden_size"] * (prompt + completion) ** 2  # of one layer
        counted += counter.get_total_flops() - square / 2
    assert flops == pytest.approx(counted / len(sizes))


def test_language_models_are_trained_alike_by_both(tmp_path, monkeypatch):
    from scripts.benchmark import text_shapes
    from scripts.benchmark.programs import trl_config, trl_flags

    for name in ("has_trl", "has_liger"):
        monkeypatch.setattr(text_shapes, name, lambda: True)
    shapes = text_shapes.TEXT_SHAPES
    rows = {row.name: row for row in card_subjects(shapes, False, 23, [], tmp_path)}
    assert len(rows) == 12 * len(shapes)
    for shape in shapes:
        for kind in ("lora", "full"):
            ours, theirs = rows[f"{shape.name}-{kind}-live"], rows[f"{shape.name}-{kind}-trl"]
            assert (ours.flags, theirs.program) == (theirs.flags, "trl")
            assert trl_flags(list(theirs.flags)).get("use_peft") == (
                "true" if kind == "lora" else None
            )
            with_liger = trl_flags(list(rows[f"{theirs.name}-liger"].flags))
            both = [
                trl_config({**options, "output_dir": "runs"})
                for options in (trl_flags(list(theirs.flags)), with_liger)
            ]
            assert both[1] == {**both[0], "use_liger_kernel": True} != both[0]
        # No program comes to a second epoch.
        assert shape.work(tmp_path).size.rows >= 23 * shape.pairs


def test_without_a_card_the_command_says_what_there_is(capsys, monkeypatch, tmp_path):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    row = Command("", "scripts.benchmark.card_command:CardSettings", "")
    words = ["--work_dir", str(tmp_path)]
    assert cli.run(row, "scripts.benchmark.card_command", "benchmark gpu", words) == 2
    assert "python scripts/benchmark host" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def benchmark(folder, *words):
    """As a person starts it."""
    command = [sys.executable, str(ROOT / "scripts" / "benchmark"), *words, "--work_dir", folder]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=1200)


@pytest.mark.slow
def test_the_command_in_small(tmp_path):
    size = "--small --repetitions 1 --steps 2 --threads 1 --shapes sd15 flux".split()
    done = benchmark(tmp_path / "work", "gpu", *size, "--subjects", "*-lora-live", "*-full-stored")
    assert done.returncode == 0, done.stderr[-2000:]
    read = json.loads((tmp_path / "work" / "gpu.json").read_text())
    rows = {row["name"]: row for row in read["rows"]}
    assert len(rows) == 4
    for row in rows.values():
        assert row["error"] is None
        assert row["pairs_a_second"][0] > 0
        assert row["host"]
        assert all(0 < share < 1 for share in row["host"])
    assert "| flux-full-stored |" in (tmp_path / "work" / "gpu.md").read_text()


@pytest.mark.slow
def test_the_host_alone(tmp_path):
    done = benchmark(tmp_path / "work", "host", "--shapes", "sd15", "--steps", "2", "--pairs", "2")
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("| sd15 |")]
    assert "4 x 64 x 64" in line
    assert "11 ms" in line  # of 3.2 TFLOP at 30 % of an H100


def test_the_stub_of_the_host_has_a_gradient():
    import torch

    from scripts.benchmark.host import StubGaps

    weight = torch.ones(2, requires_grad=True)
    backbone = SimpleNamespace(predict=None)
    trainer = SimpleNamespace(
        parameters=[weight],
        task=SimpleNamespace(backbone=backbone),
        accelerator=SimpleNamespace(backward=lambda loss: loss.backward()),
    )
    gaps = StubGaps(lambda: 0.0)
    gaps.put_into(trainer)
    try:
        trainer.accelerator.backward(backbone.predict(None, torch.ones(3), None, None).sum())
    finally:
        gaps.close()
    assert torch.equal(weight.grad, torch.zeros(2))
    assert len(gaps.spans) == 2
