"""The command line before any work begins: mistakes in one go, quickly; help, commands by name."""

import json
import subprocess
import sys

import pytest

import diffdpo
from diffdpo.cli import COMMANDS, main, settings_class
from diffdpo.commands.settings import precompute_settings
from diffdpo.image.settings import ImageSettings
from diffdpo.text.settings import TextSettings
from tests.conftest import ROOT, run

HEAVY = {"torch", "transformers", "diffusers", "datasets", "accelerate", "peft", "numpy", "PIL"}
LIGHT = {"cli", "config", "engine", "engine.console", "errors", "flags", "words"}
LIGHT |= {
    "engine.settings",
    "engine.failures",
    "engine.interrupts",
    "engine.bits_settings",
    "engine.idle",
}
DATA = {"data", "data.bundled", "data.columns", "data.paths", "data.stream_settings"}
JUDGES = {f"metrics.{name}" for name in ("bundled", "colourfulness", "jpeg", "sentiment")}
JUDGES |= {"metrics.reward", "metrics.text_reward", "metrics.pixels", "engine.digests"}
JUDGES |= {"data.modes"}
RUN_REWARDS = {"extensions", "metrics", "metrics.convert_settings", *JUDGES}
RUN_REWARDS |= {"data", "data.bundled"}
CONFIG = {"engine.run_config", "engine.checkpoint_state", "engine.digests", "engine.files"}
RUN = {"extensions", "metrics", "metrics.reward_settings", *JUDGES, *CONFIG}


def room(name):
    """All modules of a room, and the rooms that it lies in."""
    above, files = name.split(".")[0], (ROOT / "diffdpo" / name.replace(".", "/")).glob("[!_]*.py")
    return {above, name} | {f"{name}.{file.stem}" for file in files}


IMAGE = room("image.flags") | {"image.settings", "image.bundled", "image.lora_file"}
MIXED = {"data.mixture_settings", "data.strategies"}
IMAGE |= {"data", "data.stream_settings", *MIXED}
TEXT = room("text.flags") | room("text.recipes")
TEXT |= {"text.settings", "text.bundled", *MIXED}
RANKING = room("ranking") | LIGHT | {"draws", "engine.files", "report", "report.plots"}
PAIRS = {"image.evaluate_settings", "image.pair_settings", "pairs", "pairs.settings"}
PAIRS |= {"pairs.select", "draws", "commands", "commands.settings"}
PAIRS |= TEXT | {"text.pair_settings", "text.evaluate_settings"}
ANNOTATE = {"annotate", "annotate.settings"}
BOTH = LIGHT | DATA | IMAGE | TEXT | {"commands", "commands.settings"}
BOTH |= {"extensions", *CONFIG}
ROUNDS = {"commands", "commands.rounds_settings", "image", "image.bundled"}

# What each command imports of the package before its settings are right, and for its --help.
IMPORTS = {
    "train_diffusion_dpo": LIGHT | DATA | IMAGE,
    "train_text_dpo": LIGHT | DATA | TEXT,
    "evaluate": LIGHT | DATA | IMAGE | RUN | {"image.evaluate_settings"},
    "evaluate_text": LIGHT | DATA | TEXT | RUN | {"text.evaluate_settings"},
    "make_pairs": BOTH | RUN | PAIRS,
    "score": BOTH | RUN | {"commands.score_settings"},
    "convert_reward": LIGHT | RUN_REWARDS,
    "annotate": LIGHT | DATA | IMAGE | RUN | {"image.evaluate_settings"} | ANNOTATE,
    "fit_bradley_terry": RANKING,
    "compare": LIGHT | CONFIG | {"commands", "commands.compare_settings", "extensions"},
    "precompute": BOTH,
    "export": BOTH,
    "demo": BOTH,
    "demo_flow": BOTH,
    "demo_text": BOTH,
    "rounds": LIGHT | DATA | RUN | ROUNDS,
    "demo_rounds": LIGHT | DATA | RUN | ROUNDS,
}
# The table of rewards needs arrays and pictures, a fit arrays.
REWARDED = ("evaluate", "evaluate_text", "score", "make_pairs", "annotate", "convert_reward")
REWARDED += ("rounds", "demo_rounds")
ALSO = {name: {"numpy", "PIL"} for name in REWARDED}
ALSO["fit_bradley_terry"] = {"numpy"}
ASK = """
import json, sys
from diffdpo.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as leave:
    code = leave.code
print(json.dumps([code, sorted(sys.modules)]))
"""


def imported(*words):
    """Exit code, error lines, what was printed, third-party and own modules of a fresh process."""
    command = [sys.executable, "-c", ASK, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    *printed, last = done.stdout.splitlines()
    code, modules = json.loads(last)
    own = {name.removeprefix("diffdpo.") for name in modules if name.startswith("diffdpo.")}
    return code, done.stderr.splitlines(), printed, set(modules), own


NAMES = [name for name in COMMANDS if COMMANDS[name].settings]


@pytest.mark.parametrize("name", NAMES)
def test_a_mistyped_flag_is_answered_before_anything_heavy_is_imported(name):
    flag = "--output" if name == "fit_bradley_terry" else "--output_dir"
    code, lines, _, modules, own = imported(name, f"{flag}x", "x")
    assert code == 2
    assert lines[0] == f"error: unknown flag {flag}x (did you mean {flag}?)"
    assert modules & HEAVY == ALSO.get(name, set())
    assert own <= IMPORTS[name]


@pytest.mark.parametrize("name", NAMES)
def test_help_is_light_and_shows_an_example_and_one_spelling_a_flag(name):
    code, _, printed, modules, own = imported(name, "--help")
    assert code == 0
    assert modules & HEAVY == ALSO.get(name, set())
    assert own <= IMPORTS[name]
    assert f"  diffdpo {name}" in "\n".join(printed[:6])
    flags = [line.split()[0] for line in printed if line.startswith("  --")]
    assert len(flags) == len(set(flags)) >= 1
    assert not [flag for flag in flags if "-" in flag[2:]]


def test_help_has_groups_with_data_and_model_first(capsys):
    with pytest.raises(SystemExit):
        main(["train_text_dpo", "--help"])
    shown = capsys.readouterr().out
    titles = [line[:-1] for line in shown.splitlines() if line.endswith(":") and line[0] != " "]
    assert titles == [
        "example",
        "data",
        "model",
        "training",
        "loss",
        "optimizer",
        "caching",
        "checkpoints and logging",
        "evaluation and sampling",
        "general",
    ]
    assert "(default: 1e-06)" in shown


@pytest.mark.parametrize("name", NAMES)
def test_every_flag_of_every_command_has_a_place_in_its_help(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    shown = capsys.readouterr().out
    fields = settings_class(COMMANDS[name].settings, []).__dataclass_fields__
    assert [field for field in fields if f"\n  --{field}" not in shown] == []


def test_all_kinds_of_mistakes_come_in_one_go(tmp_path, capsys):
    file = tmp_path / "settings.yaml"
    file.write_text("learning_rat: 1\nrank: many\nseed: [1, 2]\n")
    words = ["--config", str(file), "--dataset_name", "/no/such/pairs", "--train-batch-size", "0"]
    words += ["--pretrained_model_name_or_path", "/no/such/model", "--max_train_steps", "few"]
    words += ["--beta_dop", "1", "--loss_type", "sigmod", "--unet_init", "/no/such/unet"]
    assert main(["train_diffusion_dpo", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    for part in (
        "unknown setting 'learning_rat' (did you mean learning_rate?)",
        "--rank: invalid int value: 'many'",
        "seed is a list; one value is wanted",
        "data set /no/such/pairs: no such file or folder",
        "--train_batch_size must be at least 1, got 0",
        "model /no/such/model: no such folder",
        "--max_train_steps: invalid int value: 'few'",
        "unknown flag --beta_dop (did you mean --beta_dpo?)",
        "--loss_type 'sigmod' is unknown",
        "--unet_init /no/such/unet: no UNet there",
    ):
        assert sum(part in line for line in lines) == 1, part
    assert len(lines) == 10
    assert all(line.startswith("error: ") for line in lines)


def test_commands_are_understood_with_hyphens_and_unknown_ones_get_a_hint(capsys):
    assert main(["train-diffusion-dpo", "--ranks", "4"]) == 2
    assert "unknown flag --ranks (did you mean --rank?)" in capsys.readouterr().err
    assert main(["train_difusion_dpo"]) == 2
    first = capsys.readouterr().err.splitlines()[0]
    expected = "unknown command train_difusion_dpo (did you mean train_diffusion_dpo?)"
    assert first == f"error: {expected}"
    assert main(["help"]) == 0
    shown = capsys.readouterr()
    assert "train_diffusion_dpo" in shown.out  # to be piped on
    assert not shown.err
    assert main([]) == 2
    shown = capsys.readouterr()
    assert (shown.out, "train_diffusion_dpo" in shown.err) == ("", True)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"diffdpo {diffdpo.__version__}\n"


def test_the_package_runs_as_a_module():
    done = run([sys.executable, "-m", "diffdpo", "--help"])
    assert done.returncode == 0
    assert "demo_text" in done.stdout
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    done = run([*launcher, "-m", "diffdpo", "train_diffusion_dpo", "--rnk", "4"])
    assert "error: unknown flag --rnk (did you mean --rank?)" in done.stderr
    assert done.returncode != 0


@pytest.mark.parametrize(
    ("name", "package", "line"),
    [
        ("evaluate_text", "vaderSentiment", "pip install 'diffdpo[sentiment]'"),
        ("demo_text", "vaderSentiment", "pip install 'diffdpo[sentiment]'"),
        ("annotate", "krippendorff", "pip install 'diffdpo[annotate]'"),
    ],
)
def test_a_missing_extra_is_asked_for_before_work_begins(
    tmp_path, monkeypatch, capsys, name, package, line
):
    import diffdpo.errors

    original = diffdpo.errors.find_spec
    monkeypatch.setattr(
        diffdpo.errors, "find_spec", lambda wanted: None if wanted == package else original(wanted)
    )
    (tmp_path / "config.json").touch()  # of a result
    both = ["--model_name_or_path", str(tmp_path), "--dataset_name", str(tmp_path)]
    words = ["--policy", str(tmp_path), *both, "--reward", "sentiment"]
    words = words if name.startswith("evaluate") else []
    words += [str(tmp_path)] if name == "annotate" else []
    assert main([name, *words, "--output_dir", str(tmp_path / "out")]) == 2
    (shown,) = capsys.readouterr().err.splitlines()
    assert line in shown
    assert not (tmp_path / "out").exists()


def test_precompute_reads_the_flags_of_the_trainer_whose_model_is_named(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("model_name_or_path: a/model\n")
    for words, cls in (
        (["--model_name_or_path=m", "--beta", "1"], TextSettings),
        (["--model-name-or-path", "m"], TextSettings),
        (["--config", str(file)], TextSettings),
        (["--pretrained_model_name_or_path", "m", "--beta_dpo", "1"], ImageSettings),
        (["--help"], ImageSettings),
    ):
        assert precompute_settings(words) is cls
