"""What is computed once, through the real commands: the same numbers, found again, by one process
or two."""

import pytest

from diffdpo.cli import run_command
from diffdpo.image.caching.reference_scores import scoring_line
from diffdpo.image.settings import ImageSettings
from tests.commands.image_runs import flags, metrics, train
from tests.conftest import script
from tests.processes import run_two


def precompute(*words):
    assert run_command("precompute", [str(word) for word in words]) == 0


@pytest.mark.parametrize(
    ("family", "rank"),
    [
        ("StableDiffusionPipeline", None),
        ("StableDiffusionXLPipeline", 4),
        pytest.param("StableDiffusionPipeline", 4, marks=pytest.mark.slow),
        pytest.param("StableDiffusionXLPipeline", None, marks=pytest.mark.slow),
    ],
)
def test_stored_runs_log_what_live_runs_log(models, pairs, tmp_path, capsys, family, rank):
    changes = {"rank": rank, "precompute_dir": tmp_path / "cache", "max_train_steps": 8}
    model = models(family)

    def logged(name, **more):
        train(*flags(model, pairs, tmp_path / name, **changes | more))
        return metrics(tmp_path / name)

    live = logged("live")
    assert logged("latents", cache_latents=True) == live
    # Three rounds of draws in 2.7 epochs: the visits of the first runs, so far as they went.
    once = logged("scores", cache_latents=True, reference_draws=3)
    assert once == live
    said = capsys.readouterr().out
    assert "reference    stored and live logits differ by at most 0 in the first batch" in said
    assert logged("again", cache_latents=True, reference_draws=3) == live
    assert "computing" not in capsys.readouterr().out
    # One round: later epochs repeat the first one's draws.
    assert logged("round", reference_draws=1)[:3] == live[:3]


def test_another_loss_beta_rank_and_rate_read_the_same_scores(models, pairs, tmp_path, capsys):
    shared = {"precompute_dir": tmp_path / "cache", "reference_draws": 2, "cache_latents": True}
    precompute(*flags(models(), pairs, tmp_path / "none", **shared))
    assert not (tmp_path / "none").exists()
    capsys.readouterr()
    changes = {
        "loss_type": "ipo",
        "beta_dpo": 100,
        "rank": 2,
        "learning_rate": 1e-4,
        "train_batch_size": 2,
    }
    train(*flags(models(), pairs, tmp_path / "other", **shared, **changes))
    train(*flags(models(), pairs, tmp_path / "full", **shared, **{"rank": None}))
    said = capsys.readouterr().out
    assert "computing" not in said
    # The first has half the batch, and sees the first half of the pairs that were scored.
    assert "reference    8 rows read from" in said
    assert "reference    16 rows read from" in said
    train(*flags(models(), pairs, tmp_path / "seed", **shared, seed=5))
    assert (
        "reference    computing 16 of 16 rows: those stored differ in --seed"
        in capsys.readouterr().out
    )


def test_in_bfloat16_the_difference_is_small_and_said(models, pairs, tmp_path, capsys):
    changes = {
        "mixed_precision": "bf16",
        "precompute_dir": tmp_path / "cache",
        "cache_latents": True,
        "beta_dpo": 5000,
    }
    train(*flags(models(), pairs, tmp_path / "live", **changes))
    train(*flags(models(), pairs, tmp_path / "stored", **changes, reference_draws=2))
    (line,) = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("reference    stored and")
    ]
    assert float(line.split("at most ")[1].split()[0]) < 0.05
    for live, stored in zip(metrics(tmp_path / "live"), metrics(tmp_path / "stored"), strict=True):
        assert stored["rewards/margins"] == pytest.approx(live["rewards/margins"], abs=0.05)


def test_two_processes_write_one_cache(models, pairs, tmp_path, capsys):
    shared = {"precompute_dir": tmp_path / "cache", "reference_draws": 2, "cache_latents": True}
    words = flags(models(), pairs, tmp_path / "two", **shared, train_batch_size=2)
    found = run_two(script("precompute", *words))
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("computing") == 3
    # The same pairs a step, by one process.
    alone = {**shared, "precompute_dir": tmp_path / "alone", "train_batch_size": 2}
    alone["gradient_accumulation_steps"] = 2
    precompute(*flags(models(), pairs, tmp_path / "none", **alone))
    assert "computing" in capsys.readouterr().out
    tables = [
        {shard.relative_to(root): shard.read_bytes() for shard in root.rglob("*.arrow")}
        for root in (tmp_path / "cache", tmp_path / "alone")
    ]
    assert tables[0] == tables[1] != {}  # to the last bit, whatever computed them
    train(*flags(models(), pairs, tmp_path / "one", **shared))
    assert "computing" not in capsys.readouterr().out
    train(*flags(models(), pairs, tmp_path / "live"))
    for live, stored in zip(metrics(tmp_path / "live"), metrics(tmp_path / "one"), strict=True):
        assert stored == pytest.approx(live, rel=1e-4, abs=1e-6)
    both = run_two(script("train_diffusion_dpo", *words))
    assert both.returncode == 0, both.stderr
    for live, stored in zip(metrics(tmp_path / "live"), metrics(tmp_path / "two"), strict=True):
        assert stored == pytest.approx(live, rel=1e-3, abs=1e-4)


def test_a_full_fine_tune_resumes_with_stored_scores_and_shows_pictures(models, pairs, tmp_path):
    changes = {
        "rank": None,
        "precompute_dir": tmp_path / "cache",
        "reference_draws": 2,
        "cache_latents": True,
    }
    changes |= {"checkpointing_steps": 2, "max_train_steps": 4}
    train(*flags(models(), pairs, tmp_path / "whole", **changes))
    train(*flags(models(), pairs, tmp_path / "parts", **changes | {"max_train_steps": 2}))
    for path in (tmp_path / "parts").glob("model_index.json"):
        path.unlink()
    shown = {
        "run_validation": True,
        "validation_steps": 4,
        "num_inference_steps": 2,
        "resolution": 32,
    }
    train(
        *flags(
            models(), pairs, tmp_path / "parts", **changes | shown, resume_from_checkpoint="latest"
        )
    )
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    assert (tmp_path / "parts" / "validation" / "step-4.png").exists()


def test_what_cannot_be_stored_is_one_line(models, pairs, tmp_path, capsys):
    def fails_with(line, **changes):
        assert (
            run_command("train_diffusion_dpo", flags(models(), pairs, tmp_path / "run", **changes))
            == 2
        )
        assert line in capsys.readouterr().err

    fails_with(
        "excludes --random_crop; leave out one of the two", cache_latents=True, random_crop=True
    )
    fails_with("--reference_draws must be at least 0", reference_draws=-1)
    (tmp_path / "file").write_text("")
    fails_with("--precompute_dir", cache_latents=True, precompute_dir=tmp_path / "file")


@pytest.mark.parametrize(
    ("draws", "positions", "stored", "told"),
    [
        (16, 300, True, "3 of 16 draws a pair are scored, the run visits no more"),
        (16, 150, True, "1.5 of 16 draws"),
        (3, 1200, True, "3 of 3 draws a pair are scored, for 12 visits: 0.25 of the forward"),
        (3, 1200, True, "pay after 3 epochs"),
        (3, 1200, False, "a pair is encoded 15 times, to be scored and trained on: with --cache"),
        (1, 100, False, "a pair is encoded 2 times"),
    ],
)
def test_what_scores_cost_beside_a_live_reference_is_said(draws, positions, stored, told):
    settings = ImageSettings(reference_draws=draws, cache_latents=stored)
    line = scoring_line(100, positions, settings)
    assert told in line
    assert ("--cache_latents" in line) == (not stored)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [4, None])
def test_a_compiled_network_trains_to_the_same_numbers_and_resumes(
    models, pairs, tmp_path, capsys, rank
):
    changes = {"rank": rank, "checkpointing_steps": 2}
    train(*flags(models(), pairs, tmp_path / "plain", **changes))
    train(
        *flags(
            models(), pairs, tmp_path / "compiled", **changes, torch_compile=True, max_train_steps=3
        )
    )
    assert "compiled     in " in capsys.readouterr().out
    last = {"torch_compile": True, "resume_from_checkpoint": "latest"}
    train(*flags(models(), pairs, tmp_path / "compiled", **changes, **last))
    for plain, compiled in zip(
        metrics(tmp_path / "plain"), metrics(tmp_path / "compiled"), strict=True
    ):
        if plain["step"] == 1:  # all ties, of which the compiled network's rounding makes wins
            assert plain.pop("rewards/accuracies") == 0.5
            compiled.pop("rewards/accuracies")
        assert compiled == pytest.approx(plain, rel=1e-2, abs=1e-3)
