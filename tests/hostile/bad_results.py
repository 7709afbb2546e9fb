"""Results of image runs to judge, and pairs to sample, that say less or other than they seem to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from tests.hostile.case import Bad, Material

LORA = "pytorch_lora_weights.safetensors"
Make = Callable[[Material], list[str]]


def run_folder(material: Material, **files: str | bytes) -> Path:
    """A folder ``run`` with these files, dots in their names as double underscores."""
    folder = material.folder / "run"
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def picture_result(*words: str, **files: str | bytes) -> Make:
    """An evaluation of a folder that holds these files, against a good model on good pairs."""

    def make(material: Material) -> list[str]:
        base = ["--policy", run_folder(material, **files), "--output_dir", material.folder / "out"]
        base += ["--pretrained_model_name_or_path", material.models()]
        base += ["--dataset_name", material.pairs, "--split", "train", "--num_prompts", "2"]
        base += ["--images_per_prompt", "1", "--num_inference_steps", "1", "--implicit_draws", "0"]
        return [*map(str, base), *words]

    return make


def prompts_of(content: bytes) -> Make:
    """An evaluation on the prompts in a text file with this content."""

    def make(material: Material) -> list[str]:
        path = material.folder / "list.txt"
        path.write_bytes(content)
        return picture_result("--prompts", str(path), **RESULT)(material)

    return make


def lora(scale: float) -> bytes:
    """A LoRA file of one layer of the small pipelines, its numbers drawn and times ``scale``."""
    layer = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora"
    random = np.random.default_rng(0)
    down, up = (random.standard_normal(shape) * scale for shape in ((2, 32), (32, 2)))
    return save({f"{layer}.down.weight": down.astype(np.float32),
                 f"{layer}.up.weight": up.astype(np.float32)})  # fmt: skip


def with_reward(code: str) -> Make:
    """An evaluation by a reward of one's own, the function ``judge`` of ``code``."""

    def make(material: Material) -> list[str]:
        own = material.folder / "own.py"
        own.write_text(f"import numpy as np\n{code}\n")
        files = {LORA.replace(".", "__"): lora(0.0)}
        return picture_result("--reward", f"{own}:judge", **files)(material)

    return make


def damaged_record(material: Material) -> list[str]:
    words = picture_result(**RESULT)(material)
    (run_folder(material) / "trained_on.safetensors").write_bytes(b"\0" * 40)
    return words


RESULT = {LORA.replace(".", "__"): lora(0.0)}
JUDGE, BESIDE = "evaluate", "compare"


def two_runs(evaluation: str = "{}", config: str = "loss_type: ipo\n") -> Make:
    """Two runs to be compared, one of them with this evaluation and configuration."""

    def make(material: Material) -> list[str]:
        run = run_folder(material, config__yaml=config, evaluation__json=evaluation)
        other = material.folder / "other"
        other.mkdir()
        (other / "config.yaml").write_text("loss_type: sigmoid\n")
        return [str(run), str(other), "--output_dir", str(material.folder / "out")]

    return make


CASES = [
    Bad("one run to compare", BESIDE, lambda material: [__file__], ".*two or more runs are needed"),
    Bad("an evaluation of nobody", BESIDE, two_runs(), r".*evaluation\.json: no evaluation"),
    Bad(
        "an evaluation that is no JSON", BESIDE, two_runs("{"), r".*evaluation\.json: no evaluation"
    ),
    Bad(
        "an evaluation without bounds",
        BESIDE,
        two_runs('{"policy": "run", "win_rate": {"value": 0.5, "n": 2, "clusters": 2}}'),
        r".*evaluation\.json: no evaluation .KeyError\('interval'\)",
    ),
    Bad(
        "an evaluation with a word for a figure",
        BESIDE,
        two_runs(
            '{"policy": "run", "implicit_accuracy": {"value": "high", "interval": [0, 1], "n": 2,'
            ' "clusters": 2, "method": "wilson"}}'
        ),
        r".*evaluation\.json: no evaluation .ValueError\('a figure is no number'\)",
    ),
    Bad("a configuration that is none", BESIDE, two_runs(config="a: [b\n"), r".*config\.yaml: "),
    Bad(
        "a result that is not there",
        JUDGE,
        picture_result("--policy", "no/run"),
        ".*no such folder",
    ),
    Bad("a file as a result", JUDGE, picture_result("--policy", __file__), ".*is a file"),
    Bad("an empty folder as a result", JUDGE, picture_result(), ".*has no result"),
    Bad(
        "a checkpoint as a result",
        JUDGE,
        picture_result(trainable__safetensors="", state__json="{}"),
        ".*is a checkpoint, not a result",
    ),
    Bad(
        "a result that names no model",
        JUDGE,
        lambda material: ["--policy", str(run_folder(material, **RESULT))],
        "--pretrained_model_name_or_path and --dataset_name needed: .* has no config.yaml",
    ),
    Bad(
        "a result whose model was in memory",
        JUDGE,
        lambda material: [
            "--policy",
            str(
                run_folder(
                    material,
                    **RESULT,
                    config__yaml=(
                        "pretrained_model_name_or_path: (in memory)\n"
                        f"dataset_name: {material.pairs}\n"
                    ),
                )
            ),
        ],
        "--pretrained_model_name_or_path needed: .* names none on disk",
    ),
    Bad(
        "NaN weights",
        JUDGE,
        picture_result(**{LORA.replace(".", "__"): lora(float("nan"))}),
        r"--policy .*: NaN or infinite weights \(2: unet.down_blocks",
    ),
    Bad(
        "metrics that are none",
        JUDGE,
        picture_result(metrics__jsonl="hello\n", **RESULT),
        r".*metrics\.jsonl: line 1 is no record of a step",
    ),
    Bad(
        "metrics without steps",
        JUDGE,
        picture_result(metrics__jsonl='{"loss": 1}\n', **RESULT),
        r".*metrics\.jsonl: line 1 is no record of a step",
    ),
    Bad("a damaged record", JUDGE, damaged_record, r".*trained_on\.safetensors: damaged"),
    Bad(
        "no sampling step",
        JUDGE,
        picture_result("--num_inference_steps", "0", **RESULT),
        "--num_inference_steps must be at least 1",
    ),
    Bad(
        "more steps than the scheduler has",
        JUDGE,
        picture_result("--num_inference_steps", "5000", **RESULT),
        "--num_inference_steps must be at most 1000",
    ),
    Bad(
        "a thousand million pictures",
        JUDGE,
        picture_result("--images_per_prompt", "1000000000", **RESULT),
        "4,000,000,000 pictures of 32 pixels need about 3,815 GiB of disk.*4,000,000,000 sampling",
    ),
    Bad(
        "prompts that are none",
        JUDGE,
        prompts_of(b""),
        r"prompts .*list\.txt: none is there",
    ),
    Bad(
        "prompts in UTF-16",
        JUDGE,
        prompts_of("a cat".encode("utf-16")),
        r"prompts .*list\.txt: cannot be read as UTF-8",
    ),
    Bad(
        "votes that are none",
        JUDGE,
        picture_result("--votes", __file__, **RESULT),
        r".*: \d+ of \d+ lines are no votes",
    ),
    Bad(
        "an image tower that is none",
        JUDGE,
        lambda material: picture_result(
            "--diversity_model", str(run_folder(material, **RESULT)), **RESULT
        )(material),
        r"--diversity_model .*: config\.json is missing there",
    ),
    Bad(
        "a best of one",
        JUDGE,
        picture_result("--best_of", "1", **RESULT),
        "--best_of must be at least 2",
    ),
    Bad(
        "one policy twice",
        JUDGE,
        lambda material: picture_result(
            "--policy", *[str(run_folder(material, **RESULT))] * 2, **RESULT
        )(material),
        "--policy .*: is named twice",
    ),
    Bad(
        "guidance that is no number",
        JUDGE,
        picture_result("--guidance_scale", "nan", **RESULT),
        "--guidance_scale must be a finite number",
    ),
    Bad(
        "a reward of NaN",
        JUDGE,
        with_reward("def judge(pictures, prompts): return [1.0, float('nan')]"),
        "--reward .*: 1 of 2 scores are not finite.*picture 1 of the reference, prompt 'picture 1'",
    ),
    Bad(
        "a reward that fails on one picture",
        JUDGE,
        with_reward("def judge(pictures, prompts): return [{'picture 0': 1}[p] for p in prompts]"),
        "--reward .*: fails with KeyError: 'picture 1' for picture 1 of the reference",
    ),
]
