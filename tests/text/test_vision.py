"""Image–text models: pictures are read, by every row its own, and step 1 is ln 2."""

import json
import math
import pickle
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from torch._dynamo.utils import counters
from transformers import AutoModelForImageTextToText, AutoProcessor

from diffdpo.errors import UserError
from diffdpo.text.model.network import make_trainable
from diffdpo.text.scoring.scorer import TokenScorer, prove_head
from diffdpo.text.settings import TextSettings
from diffdpo.text.vision.models import reads_pictures, sighted
from diffdpo.text.vision.sight import (
    HAS_TORCHVISION,
    Sight,
    load_processor,
    made_up,
    proved,
    sized,
)
from tests.text import factory
from tests.text import vision_factory as vision
from tests.text.engine import OneStep
from tests.text.runs import flags, metrics, train
from tests.text.test_vision_against_trl import SLOW, ours


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return vision.save("llava", tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Rows for training and others to measure on."""
    folder = tmp_path_factory.mktemp("rows")
    rows = Dataset.from_list(vision.pair_rows(12))
    rows.select(range(8)).to_parquet(folder / "train.parquet")
    rows.select(range(8, 12)).to_parquet(folder / "test.parquet")
    return folder


def proven(family, seed=0):
    scorer = TokenScorer(vision.model(family, seed))
    prove_head(scorer, family)
    return sighted(scorer, Sight(vision.processor(family)), family)


@pytest.mark.parametrize("family", [*vision.FAMILIES, *SLOW])
def test_a_pair_scores_alone_as_among_pictures_of_other_sizes(family):
    items = ours(vision.pair_rows(5, 2), family).items
    one = OneStep(vision.model(family), vision.model(family))
    one.policy = proven(family)
    assert one.policy.can_share  # the prompt with its pictures is read once for both completions

    def scores(some, share):
        one.policy.share = share
        with torch.no_grad():
            return one.task.score(one.policy, one.task.draw(one.task.collate(some))).score_N

    together = scores(items[:], False)
    for number, item in enumerate(items):
        for share in (False, True):
            assert torch.allclose(scores([item], share), together[number::5], rtol=1e-4)
    # By the library's own forward pass, on the row alone.
    item, processor = items[1], vision.processor(family)
    text = processor.apply_chat_template(
        [*vision.pair_rows(2, 2)[1]["prompt"], *vision.pair_rows(2, 2)[1]["chosen"]]
    )
    read = processor(text=[text], images=[vision.pair_rows(2, 2)[1]["images"]], return_tensors="pt")
    logp = one.policy.network(**read).logits.log_softmax(-1)[0, :-1]
    tokens, start = read["input_ids"][0], len(item.prompt)
    expected = logp.gather(1, tokens[1:, None])[start - 1 :].sum()
    assert together[1].item() == pytest.approx(expected.item(), rel=1e-4)


def test_all_parts_have_a_gradient_and_other_pictures_another_score():
    rows = vision.pair_rows(2)
    one = OneStep(vision.model("qwen2_5_vl"), vision.model("qwen2_5_vl", 1))
    loss, _ = one.run(ours(rows, "qwen2_5_vl").items)
    loss.backward()
    weights = dict(one.policy.network.named_parameters())
    assert all(weight.grad is not None for weight in weights.values())
    assert any("visual" in name and weight.grad.norm() > 0 for name, weight in weights.items())
    rows[0]["images"], rows[1]["images"] = rows[1]["images"], rows[0]["images"]
    other, _ = one.run(ours(rows, "qwen2_5_vl").items)
    assert other.item() != pytest.approx(loss.item(), rel=1e-3)


def test_the_part_that_reads_pictures_may_be_frozen(llava):
    settings = TextSettings(
        model_name_or_path=str(llava), dataset_name="data", freeze_vision_tower=True
    )
    scorer = make_trainable(vision.model("llava"), settings, torch.device("cpu"))
    learned = {n: weight.requires_grad for n, weight in scorer.network.named_parameters()}
    reads = ("model.vision_tower.", "model.multi_modal_projector.")
    assert {name for name, trained in learned.items() if not trained} == {
        name for name in learned if name.startswith(reads)
    }
    assert learned["lm_head.weight"]


def test_pictures_are_scaled_as_llama_factory_scales_them():
    picture = made_up(90, 40)
    assert sized(picture, None, None) is picture
    assert sized(picture, 10, 3600) is picture
    assert sized(picture, None, 900).size == (45, 20)  # 3,600 pixels by half of each side
    assert sized(picture, 14_400, None).size == (180, 80)
    whole, small = (Sight(vision.processor("qwen3_vl"), most=most) for most in (None, 900))
    grids = [sight.see([picture]).pictures.of_item[0]["image_grid_thw"] for sight in (whole, small)]
    assert grids[0].prod() > grids[1].prod()
    assert whole.identity != small.identity


def test_a_processor_without_videos_keeps_their_settings_and_can_be_sent(tmp_path):
    """Where torchvision is missing, without which processors of videos cannot be made."""
    vision.processor("qwen2_5_vl").save_pretrained(tmp_path)
    file, network = tmp_path / "processor_config.json", vision.model("qwen2_5_vl")
    settings = json.loads(file.read_text())
    videos = {"video_processor_type": "Qwen2VLVideoProcessor", "max_frames": 8}
    options = {"revision": "main", "cache_dir": None, "trust_remote_code": False}
    for inside in (True, False):
        file.write_text(json.dumps(settings | ({"video_processor": videos} if inside else {})))
        if not inside:
            (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(videos))
        loaded = load_processor(str(tmp_path), network, options)
        loaded.save_pretrained(tmp_path / "out")
        saved = json.loads((tmp_path / "out" / "processor_config.json").read_text())
        if not HAS_TORCHVISION:
            assert saved["video_processor"] == videos
        assert saved["processor_class"] == "Qwen2_5_VLProcessor"
    seen, again = (
        sight.see([vision.picture(4)])
        for sight in (Sight(loaded), pickle.loads(pickle.dumps(Sight(loaded))))
    )
    (one,), (other,) = seen.pictures.of_item, again.pictures.of_item
    assert torch.equal(one["pixel_values"], other["pixel_values"])
    assert seen.places == again.places


def test_rows_without_pictures_stand_beside_others():
    rows = vision.pair_rows(3)
    rows[1]["images"] = []
    rows[1]["prompt"] = [{"role": "user", "content": [{"type": "text", "text": "and this?"}]}]
    read = ours(rows, "qwen3_vl")
    assert [item.pictures is None for item in read.items] == [False, True, False]
    one = OneStep(vision.model("qwen3_vl"), vision.model("qwen3_vl", 1))
    alone, _ = one.run(read.items[1:2])
    whole = [one.run([item])[0].item() for item in read.items]
    assert alone.item() == whole[1]
    assert one.run(read.items[:])[0].item() == pytest.approx(sum(whole) / 3, rel=1e-4)


@pytest.fixture(scope="module")
def whole(llava, pairs, tmp_path_factory):
    """The flags of a LoRA's run, and the folder of such a run of two steps."""
    out = tmp_path_factory.mktemp("whole") / "run"
    words = {"use_peft": True, "max_train_steps": 2, "lr_scheduler": "constant"}
    words |= {"eval_strategy": "epoch", "eval_generations": 1, "max_new_tokens": 4}
    train(*flags(llava, pairs, out, **words))
    return words, out


def test_a_lora_begins_at_ln_2_reads_language_alone_and_is_loaded_again(whole):
    _, out = whole
    lines = metrics(out)
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert lines[-1]["loss"] < lines[0]["loss"]
    loaded = AutoModelForImageTextToText.from_pretrained(out)
    adapted = {name.split(".lora")[0] for name, _ in loaded.named_parameters() if "lora" in name}
    assert adapted
    assert all("language_model" in name for name in adapted)
    assert AutoProcessor.from_pretrained(out).chat_template == vision.LLAVA
    text = next(Path(out / "samples").glob("*.txt")).read_text()
    assert "<image>×4" in text
    assert "[policy, step 2]" in text


def test_a_resumed_run_is_the_same_run(whole, llava, pairs, tmp_path):
    words, out = whole
    train(*flags(llava, pairs, tmp_path / "a", **words | {"max_train_steps": 1}))
    train(*flags(llava, pairs, tmp_path / "a", **words, resume_from_checkpoint="latest"))
    assert metrics(tmp_path / "a") == metrics(out)


def test_stored_scores_of_the_reference_are_those_of_its_own_pictures(
    whole, llava, pairs, tmp_path
):
    words, out = whole
    stored = {"precompute_ref_log_probs": True, "precompute_dir": tmp_path / "cache"}
    train(*flags(llava, pairs, tmp_path / "a", **words | {"eval_strategy": "no"}, **stored))
    for one, other in zip(metrics(tmp_path / "a"), metrics(out), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    rows = vision.pair_rows(3)
    before = ours(rows, "llava").fingerprint
    rows[2]["images"] = [vision.picture(40)]  # of the same size, so that the tokens are the same
    assert ours(rows, "llava").fingerprint != before


def test_a_picture_that_changes_during_a_run_ends_it(tmp_path):
    rows = vision.pair_rows(2)
    for number, row in enumerate(rows):
        row["images"] = [str(tmp_path / f"{number}.png")]
        vision.picture(number).save(row["images"][0])
    read = ours(rows, "llava")
    assert read.read(1, 0).pictures
    vision.picture(7).save(tmp_path / "1.png")
    with pytest.raises(UserError, match="row 1: its pictures were changed"):
        read.read(1, 0)
    (tmp_path / "1.png").unlink()
    with pytest.raises(UserError, match="row 1: its picture: no such file"):
        read.read(1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_layers_are_compiled_beside_pictures(family, pairs, tmp_path, monkeypatch):
    """With a backend that traces as the usual one does, and writes no code."""
    real = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module,
        "compile",
        lambda self, **options: real(self, backend="aot_eager", **options),
    )
    model = vision.save(family, tmp_path / "model")
    words = {"use_peft": True, "max_train_steps": 2, "lr_scheduler": "constant"}
    train(*flags(model, pairs, tmp_path / "plain", **words))
    counters["stats"].clear()
    train(*flags(model, pairs, tmp_path / "compiled", **words, torch_compile=True))
    assert counters["stats"]["unique_graphs"] > 0
    both = zip(metrics(tmp_path / "plain"), metrics(tmp_path / "compiled"), strict=True)
    for one, other in both:
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)


class Mixing(Sight):
    """A processor whose pixels depend on the number of rows."""

    def made(self, rows):
        made = super().made(rows)
        made["pixel_values"] = made["pixel_values"] + len(rows)
        return made


def test_what_cannot_be_batched_or_is_not_looked_at_is_refused():
    processor = vision.processor("llava")
    with pytest.raises(UserError, match=r"LlavaProcessor \(the pixel_values of a row depend on"):
        proved(Mixing(processor), "--model_name_or_path M")
    blind = vision.model("llava")
    with torch.no_grad():
        blind.model.multi_modal_projector.linear_2.weight.zero_()
    with pytest.raises(UserError, match="M: its scores do not depend on pictures"):
        sighted(TokenScorer(blind), Sight(processor), "M")
    packed = TokenScorer(vision.model("llava"))
    packed.packed = True
    with pytest.raises(UserError, match="--padding_free: not with pictures in the rows"):
        sighted(packed, Sight(processor), "M")
    text = TokenScorer(factory.model())
    assert not reads_pictures(text.network)
    with pytest.raises(UserError, match="M: reads no pictures, and the rows have some"):
        sighted(text, Sight(processor), "M")
