"""Evaluations of several policies: every figure again from what is kept on the disk."""

import json
from itertools import product

import numpy as np
import pytest
from PIL import Image

from diffdpo.cli import run_command
from diffdpo.image.sampling import samples
from diffdpo.metrics.intervals import clustered_mean, clustered_share
from tests.conftest import run, two_processes
from tests.factory import read_jsonl
from tests.hostile.bad_results import LORA, lora

REWARDS = ["colourfulness", "jpeg_incompressibility"]
PROMPTS = ["a red cat", "猫 и собака", "قطة حمراء 🐈", "a <script>alert(1)</script>"]


def result(folder, scale, **config):
    """The folder of a run with a LoRA of one layer, and what it recorded."""
    folder.mkdir(parents=True)
    (folder / LORA).write_bytes(lora(scale))
    if config:
        (folder / "config.yaml").write_text("".join(f"{k}: {v}\n" for k, v in config.items()))
    return folder


def command(model, out, *more):
    words = ["--pretrained_model_name_or_path", model, "--output_dir", out, "--seed", 3]
    words += ["--images_per_prompt", 2, "--num_inference_steps", 2, "--implicit_draws", 1]
    words += ["--sample_batch_size", 3, "--reward", *REWARDS]
    return [str(word) for word in [*words, *more]]


def policies(folder):
    """Three results and a list of prompts in a folder."""
    result(folder / "weak", 0.1)
    result(folder / "strong", 0.3)
    result(folder / "coin", 0.2, random_labels=True)
    (folder / "list.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return policies(tmp_path_factory.mktemp("many"))


@pytest.fixture(scope="module")
def words(models, place):
    more = ["--policy", place / "weak", place / "strong", "--control", place / "coin"]
    more += ["--prompts", place / "list.txt", "--best_of", 4, "--export", "geneval", "hpsv2"]
    return command(models(), place / "out", *more)


@pytest.fixture(scope="module")
def found(words, place):
    """The content of evaluation.json, and the scores by policy, reward, prompt and number."""
    assert run_command("evaluate", words) == 0
    scores = {}
    for line in read_jsonl(place / "out" / "scores.jsonl"):
        for reward in REWARDS:
            rows = scores.setdefault((line["policy"], reward), {})
            rows.setdefault(line["prompt"], []).append(line[reward])
    arrays = {key: np.array(list(rows.values())) for key, rows in scores.items()}
    return json.loads((place / "out" / "evaluation.json").read_text()), arrays


def wins(scores, one, other, reward):
    """(P, 2): what each picture of one policy won against the other's."""
    gap = scores[one, reward][:, :2] - scores[other, reward][:, :2]
    return np.where(gap > 0, 1.0, np.where(gap < 0, 0.0, 0.5))


def test_every_picture_is_kept_with_its_prompt_and_seed(found, place):
    lines = read_jsonl(place / "out" / "samples.jsonl")
    assert set(lines[0]) == {"policy", "prompt", "prompt_index", "seed", "file"}
    by_policy = {}
    for line in lines:
        with Image.open(place / "out" / line["file"]) as opened:
            assert opened.size == (32, 32)
        by_policy.setdefault(line["policy"], []).append((line["prompt"], line["seed"]))
    assert list(by_policy) == ["reference", "weak", "strong", "coin"]
    assert by_policy["weak"] == by_policy["strong"] == by_policy["reference"][:8]
    assert len(by_policy["reference"]) == 16  # four a prompt, of which the best is taken
    assert len({seed for _, seed in by_policy["reference"]}) == 16
    assert [prompt for prompt, _ in by_policy["weak"]][::2] == PROMPTS
    assert lines[-1]["file"] == "samples/coin/00003-1.png"


def test_the_table_is_that_of_the_scores(found):
    content, scores = found
    assert content["reward"] == "colourfulness"
    assert len(content["table"]) == 2 * 6
    clusters = np.repeat(PROMPTS, 2)
    for row in content["table"]:
        share = wins(scores, row["policy"], row["against"], row["reward"]).ravel()
        assert row["win_rate"]["value"] == pytest.approx(share.mean())
        again = clustered_share(share.tolist(), clusters, 3)
        assert row["win_rate"]["interval"] == pytest.approx(again.interval)
    for row in content["differences"]:
        reward = row["reward"]
        gap = (
            wins(scores, row["policy"], "reference", reward)
            - wins(scores, row["minus"], "reference", reward)
        ).ravel()
        again = clustered_mean(gap.tolist(), clusters, 3)
        assert row["difference"]["value"] == pytest.approx(gap.mean())
        assert row["difference"]["interval"] == pytest.approx(again.interval)
    first = content["policies"]["weak"]["rewards"]["colourfulness"]
    assert content["win_rate"] == first["win_rate"]
    assert first["ties"] == (wins(scores, "weak", "reference", "colourfulness") == 0.5).sum()


def test_holm_over_rewards_by_hand(found):
    content, scores = found
    for label in ("weak", "strong", "coin"):
        rows = content["policies"][label]["rewards"]
        p = {}
        for reward in REWARDS:
            total = (wins(scores, label, "reference", reward) - 0.5).sum(axis=1)
            sums = [abs(np.dot(signs, total)) for signs in product((-1, 1), repeat=4)]
            p[reward] = np.mean([value >= abs(total.sum()) - 1e-12 for value in sums])
            assert rows[reward]["p_value"] == pytest.approx(p[reward])
        small, large = sorted(REWARDS, key=p.get)
        assert rows[small]["p_holm"] == pytest.approx(min(1, 2 * p[small]))
        assert rows[large]["p_holm"] == pytest.approx(max(min(1, 2 * p[small]), p[large]))


def test_the_best_of_four_is_the_highest_by_the_same_judge(found):
    content, scores = found
    for reward in REWARDS:
        best = scores["reference", reward].max(axis=1)
        assert scores["reference", reward].shape == (4, 4)
        row = content["policies"]["strong"]["rewards"][reward]
        assert row["best_of"]["reference_mean"] == pytest.approx(best.mean())
        assert row["best_of"]["reference_mean"] >= row["reference_mean"]
        gap = scores["strong", reward] - best[:, None]
        share = np.where(gap > 0, 1.0, np.where(gap < 0, 0.0, 0.5))
        assert row["best_of"]["win_rate"]["value"] == pytest.approx(share.mean())
        assert row["best_of"]["win_rate"]["value"] <= row["win_rate"]["value"]


def test_strengths_diversity_and_drift_are_of_the_pictures(found, place):
    content, _ = found
    assert {row["item"] for row in content["strengths"]["items"]} == {
        "reference", "weak", "strong", "coin"
    }  # fmt: skip
    weak, strong = (content["policies"][label] for label in ("weak", "strong"))
    apart = []
    for number in range(8):
        name = f"{number // 2:05}-{number % 2}.png"
        both = [np.asarray(Image.open(place / "out" / "samples" / label / name), dtype=float)
                for label in ("strong", "reference")]  # fmt: skip
        apart.append(np.abs(both[0] - both[1]).mean())
    assert strong["drift"]["distance"]["value"] == pytest.approx(np.mean(apart))
    assert strong["drift"]["distance"]["value"] > weak["drift"]["distance"]["value"] > 0
    change = strong["diversity"]
    gap = change["policy"] - change["reference"]
    assert change["difference"]["value"] == pytest.approx(gap)
    assert content["diversity_by"].startswith("colour histogram")
    assert "implicit_accuracy" not in content  # no pairs were named


def test_the_page_says_what_was_measured_and_how(found, place):
    page = (place / "out" / "report.html").read_text()
    for text in (
        "weak: win rate",
        "4 prompts resolve ±49 points",
        "coin (control)",
        "Win rates between all",
        "Bradley–Terry strengths",
        "of 2 rewards significant after Holm",
        "against the best of 4 pictures of the reference",
        "rule colourfulness, version 1",
        "steps 2, guidance 3.0, resolution 32",
        "equal scores count 1/2",
    ):
        assert text in page, text
    assert "No coin-toss control" not in page


def test_exports_have_the_layouts_of_their_readers(found, place):
    geneval, hpsv2 = (place / "out" / "export" / name for name in ("geneval", "hpsv2"))
    assert sorted(path.name for path in geneval.iterdir()) == [
        "coin",
        "reference",
        "strong",
        "weak",
    ]
    assert sorted(path.name for path in (geneval / "weak").iterdir()) == [
        f"{number:05}" for number in range(4)
    ]
    metadata = json.loads((geneval / "weak" / "00001" / "metadata.jsonl").read_text())
    assert metadata == {"prompt": PROMPTS[1]}
    kept = geneval / "weak" / "00001" / "samples"
    assert sorted(path.name for path in kept.iterdir()) == ["0000.png", "0001.png"]
    own = place / "out" / "samples" / "weak" / "00001-1.png"
    assert (kept / "0001.png").read_bytes() == own.read_bytes()
    files = sorted(path.name for path in (hpsv2 / "strong" / "list").iterdir())
    assert files == [f"{number:05}.jpg" for number in range(4)]
    with Image.open(hpsv2 / "strong" / "list" / files[0]) as opened:
        assert (opened.format, opened.size) == ("JPEG", (32, 32))


def test_pictures_that_are_there_are_not_sampled_again(found, words, place, monkeypatch):
    content, _ = found
    calls, sampled = [], samples.run

    def counted(backbone, prompts, seeds, settings):
        calls.append(list(prompts))
        return sampled(backbone, prompts, seeds, settings)

    monkeypatch.setattr(samples, "run", counted)
    assert run_command("evaluate", words) == 0
    assert calls == []
    assert json.loads((place / "out" / "evaluation.json").read_text()) == content
    # Of a batch that lacks a picture all are made again, as they were.
    lost = place / "out" / "samples" / "strong" / "00001-0.png"
    before = lost.read_bytes()
    lost.unlink()
    assert run_command("evaluate", words) == 0
    assert calls == [[PROMPTS[0], PROMPTS[0], PROMPTS[1]]] or calls == [
        [PROMPTS[1], PROMPTS[1], PROMPTS[2]]
    ]
    assert lost.read_bytes() == before


def test_pictures_of_other_facts_are_sampled_anew(place, models, monkeypatch, capsys):
    calls = []

    def made(backbone, prompts, seeds, settings):
        calls.append(len(prompts))
        return [Image.new("RGB", (32, 32), (seed % 256, 0, 0)) for seed in seeds]

    monkeypatch.setattr(samples, "run", made)
    (place / "two.txt").write_text("\n".join(PROMPTS[:2]))

    def judged(*more):
        calls.clear()
        base = ["--policy", place / "weak", "--prompts", place / "two.txt"]
        assert run_command("evaluate", command(models(), place / "facts", *base, *more)) == 0
        return sum(calls), capsys.readouterr().out

    assert judged()[0] == 8
    assert judged()[0] == 0
    assert judged("--reward_batch_size", 1)[0] == 0
    count, shown = judged("--guidance_scale", 2)
    assert count == 8
    assert "samples/reference: its pictures have other guidance; they are sampled anew" in shown
    # Further prompts leave the pictures of the first ones where they are.
    longer = judged("--guidance_scale", 2, "--prompts", place / "list.txt")
    assert longer[0] == 2 * 5  # batches of 3: the one with pictures of both is made whole
    (place / "weak" / LORA).write_bytes(lora(0.11))
    count, shown = judged("--guidance_scale", 2, "--prompts", place / "list.txt")
    (place / "weak" / LORA).write_bytes(lora(0.1))
    assert count == 8
    assert "samples/weak: its pictures have other policy;" in shown


@pytest.mark.slow
def test_two_processes_make_the_pictures_of_one(found, words, place):
    """Bit for bit, and with the same figures."""
    apart = [word if word != str(place / "out") else str(place / "apart") for word in words]
    done = run(two_processes("evaluate", *apart))
    assert done.returncode == 0, done.stderr[-2000:]
    content, _ = found
    other = json.loads((place / "apart" / "evaluation.json").read_text())
    for key in ("win_rate", "policies", "table", "strengths"):
        assert other[key] == content[key]
    for path in (place / "out" / "samples").rglob("*.png"):
        twin = place / "apart" / path.relative_to(place / "out")
        assert twin.read_bytes() == path.read_bytes(), path.name
