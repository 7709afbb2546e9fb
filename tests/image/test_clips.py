"""Clips: what cells hold, how many frames are read, and what is refused."""

import io

import av
import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

import diffdpo.errors
from diffdpo.data.cells import BadImage
from diffdpo.data.decode import Limits, open_image
from diffdpo.errors import UserError
from diffdpo.image.backbones import backbone_of
from diffdpo.image.pictures.clips import first_frames, open_clip
from diffdpo.image.pictures.framing import FrameSettings
from diffdpo.image.pictures.marks import content
from diffdpo.image.reading.clip_length import check_frames, settle_frames
from diffdpo.image.reading.pairs import image_pairs
from tests.factory import encoded, picture, whole_pipeline
from tests.families import wan

CONTAINERS = {"matroska": "ffv1", "mp4": "mpeg4", "avi": "mpeg4", "mpeg": "mpeg1video"}


def frames(count, seed=0, size=(48, 32)):
    """Pictures of one colour each, no two alike."""
    return [Image.new("RGB", size, (30 * n % 256, 255 - 40 * n % 256, 90 + seed)) for n in
            range(count)]  # fmt: skip


def video(pictures, container="matroska"):
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(CONTAINERS[container], rate=25)
        stream.width, stream.height = pictures[0].size
        stream.pix_fmt = "bgr0" if container == "matroska" else "yuv420p"
        stream.bit_rate = 4_000_000
        for one in pictures:
            output.mux(stream.encode(av.VideoFrame.from_image(one)))
        output.mux(stream.encode())
    return file.getvalue()


def colours(clip):
    return np.array([np.asarray(one)[0, 0] for one in clip], dtype=int)


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_video_file_gives_its_first_frames(container, tmp_path):
    made = frames(7)
    data = video(made, container)
    clip = open_clip(data, 5)
    tolerance = 0 if container == "matroska" else 16
    assert len(clip) == 5
    assert clip[0].size == (48, 32)
    assert np.abs(colours(clip) - colours(made[:5])).max() <= tolerance
    path = tmp_path / "clip.bin"  # the content decides, and no ending
    path.write_bytes(data)
    for cell in (str(path), {"bytes": None, "path": str(path)}, {"bytes": data, "path": None}):
        assert np.array_equal(colours(open_clip(cell, 5)), colours(clip))


@pytest.mark.parametrize(
    "cell",
    [
        lambda made: made,
        lambda made: [encoded(one) for one in made],
        lambda made: [{"bytes": encoded(one), "path": None} for one in made],
        lambda made: np.stack([np.asarray(one) for one in made]),
        lambda made: np.stack([np.asarray(one) for one in made]).tolist(),
    ],
)
def test_a_list_of_pictures_is_a_clip(cell):
    made = frames(6)
    assert np.array_equal(colours(open_clip(cell(made), 5)), colours(made[:5]))
    assert len(first_frames(cell(made), 81)) == 6


def test_a_picture_is_a_clip_of_one():
    for cell in (encoded(picture(1)), [encoded(picture(1))], np.asarray(picture(1)).tolist()):
        (only,) = open_clip(cell, 1)
        assert np.array_equal(only, picture(1))
        with pytest.raises(BadImage, match=r"a picture, and clips of 5 frames.*--num_frames"):
            open_clip(cell, 5)


@pytest.mark.parametrize(
    ("cell", "line"),
    [
        (lambda: frames(4), "4 frames, and clips of 5 frames"),
        (lambda: video(frames(4)), "4 frames, and clips of 5 frames"),
        (lambda: [*frames(4), picture(0, (16, 16))], "frames of 2 sizes"),
        (lambda: [*frames(4), b"no picture"], "in no image format"),
        (lambda: video(frames(5))[:60], "a video that cannot be read"),
        (lambda: video(frames(5, size=(640, 480))), "307,200 pixels, more than the 100,000"),
        (lambda: video(frames(5, size=(640, 16))), "--max_image_ratio"),
        (lambda: [], "an empty list"),
    ],
)
def test_bad_clips_are_told_in_a_few_words(cell, line):
    with pytest.raises(BadImage, match=line):
        open_clip(cell(), 5, limits=Limits(pixels=100_000, ratio=20))


def test_a_video_among_pictures_is_told_apart_from_a_damaged_picture():
    for container in CONTAINERS:
        with pytest.raises(BadImage, match="a video, and the model makes pictures"):
            open_image(video(frames(2), container))


def test_without_a_decoder_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(diffdpo.errors, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'diffdpo\[video\]'"):
        open_clip(video(frames(2)), 1)
    assert len(open_clip(frames(2), 2)) == 2


def test_files_named_in_a_list_are_known_by_their_contents(tmp_path):
    names = [str(tmp_path / f"{n}.png") for n in range(2)]
    digests = []
    for seed in (0, 1):
        for name, one in zip(names, frames(2, seed), strict=True):
            one.save(name)
        digests.append(content(names, lambda name: tmp_path / name))
    assert digests[0] != digests[1]


def rows(cells=lambda made: made, count=3, length=6):
    """Pairs of clips, as a data set has them."""
    return [
        {
            "video_0": cells(frames(length, 2 * n)), "video_1": cells(frames(length, 2 * n + 1)),
            "caption": f"p{n}", "label_0": 1.0,
        }
        for n in range(count)
    ]  # fmt: skip


def listed(length=6):
    """The same, each clip a list of pictures of the library's own type."""
    kinds = {**dict.fromkeys(("video_0", "video_1"), List(ImageFeature())),
             "caption": Value("string"), "label_0": Value("float32")}  # fmt: skip
    return Dataset.from_list(rows(length=length), features=Features(kinds))


@pytest.mark.parametrize("kind", ["list", "file"])
def test_both_sides_and_all_frames_are_cropped_and_flipped_alike(kind):
    gradient = Image.linear_gradient("L").resize((48, 32)).rotate(90).resize((48, 32))
    made = [gradient.convert("RGB")] * 5
    cell = video(made) if kind == "file" else [encoded(one) for one in made]
    row = {"video_0": cell, "video_1": cell, "caption": "p", "label_0": 1.0}
    framing = FrameSettings(0, 32, random_crop=True, flip=True, num_frames=5)
    pairs = image_pairs(Dataset.from_list([row]), framing)
    seen = set()
    for visit in range(6):
        item = pairs.read(0, visit)
        assert item.chosen.pixels_CHW.shape == (3, 5, 32, 32)
        assert torch.equal(item.chosen.pixels_CHW, item.rejected.pixels_CHW)
        for n in range(1, 5):
            assert torch.equal(item.chosen.pixels_CHW[:, n], item.chosen.pixels_CHW[:, 0])
        seen.add(item.chosen.pixels_CHW.sum().item())
    assert len(seen) > 1


def test_the_first_pair_tells_the_length_where_none_is_given():
    backbone = backbone_of(wan.tiny())
    for wanted, length, expected in ((None, 6, 5), (None, 3, 1), (5, 9, 5), (1, 6, 1)):
        pairs = image_pairs(listed(length), FrameSettings(0, 32))
        settle_frames(pairs, backbone, wanted)
        assert backbone.num_frames == pairs.framing.num_frames == expected
        assert pairs.read(0, 0).chosen.pixels_CHW.shape == (3, expected, 32, 32)


def test_pictures_train_a_model_of_video_as_clips_of_one():
    backbone = backbone_of(wan.tiny())
    row = {"jpg_0": encoded(picture(0)), "jpg_1": encoded(picture(1)), "caption": "p",
           "label_0": 1.0}  # fmt: skip
    pairs = image_pairs(Dataset.from_list([row]), FrameSettings(0, 32))
    settle_frames(pairs, backbone, None)
    assert pairs.read(0, 0).chosen.pixels_CHW.shape == (3, 1, 32, 32)


def test_a_model_of_pictures_refuses_clips_in_one_line():
    backbone = backbone_of(whole_pipeline("StableDiffusionPipeline"))
    for data, line in (
        (Dataset.from_list(rows(video)), "a video, and the model makes pictures"),
        (listed(), "one image is wanted"),
    ):
        pairs = image_pairs(data, FrameSettings(0, 32))
        settle_frames(pairs, backbone, None)
        with pytest.raises(UserError, match=f"3 of 3 pairs are unreadable.*{line}"):
            pairs.check(quiet=True)


def test_bad_clips_are_counted_and_left_out():
    data = Dataset.from_list([*rows(video), *rows(lambda made: video(made)[:60], count=1)])
    pairs = image_pairs(data, FrameSettings(0, 32, num_frames=5))
    pairs.check(quiet=True)
    assert len(pairs) == 3
    (line,) = pairs.tally.unreadable
    assert line.startswith("row 3: column video_0: a video that cannot be read")


@pytest.mark.parametrize(
    ("count", "factor", "line"),
    [
        (5, None, "makes pictures"),
        (6, 4, "4 plus 1; take 5"),
        (8, 4, "take 9"),
        (2, 8, "take 1"),
        (80, 8, "take 81"),
    ],
)
def test_lengths_that_a_model_cannot_have_are_refused(count, factor, line):
    with pytest.raises(UserError, match=line):
        check_frames(count, factor)


def test_lengths_that_a_model_has_are_taken():
    for count, factor in ((1, None), (1, 4), (81, 4), (9, 8), (161, 8)):
        check_frames(count, factor)
