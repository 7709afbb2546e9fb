"""Rows with pictures in the forms of TRL, LLaMA-Factory and RLAIF-V become the same tokens; what is
broken is counted, with its reason."""

import json
from pathlib import Path

import pytest
from accelerate import Accelerator
from datasets import Dataset

from diffdpo.data.places import Place
from diffdpo.errors import UserError
from diffdpo.text.reading.rows import TextRows
from diffdpo.text.tokens.row_reader import RowReader, RowSettings
from diffdpo.text.tokens.tokenise import Store
from diffdpo.text.vision.reader import PictureReader
from diffdpo.text.vision.rows import PictureRows
from diffdpo.text.vision.sight import Sight
from tests.text import vision_factory as vision
from tests.text.factory import assistant, user
from tests.text.runs import fails_with, flags
from tests.text.test_vision_against_trl import ours

PROCESSOR = vision.processor("qwen3_vl")
WORDS, SIGHT = PROCESSOR.tokenizer, Sight(PROCESSOR)
PICTURE = vision.png(vision.picture(4))  # 56 x 56 pixels: four tokens
PLACE = {"type": "image"}
ASKED, YES, NO = "What is it?", assistant("a cat"), assistant("a dog")
ROW = {
    "images": [PICTURE],
    "prompt": [{"role": "user", "content": [PLACE, {"type": "text", "text": ASKED}]}],
    "chosen": [YES],
    "rejected": [NO],
}


def read(row, name="pairs", column="images", **settings):
    settings = RowSettings(in_parts=True, **settings)
    reader = PictureReader(WORDS, settings, name, SIGHT, column, Place().file)
    return reader.read(0, row)


def tokens(result):
    assert result.bad is None
    return [result.encoded.prompt, *result.encoded.completions]


EXPECTED = tokens(read(ROW))
TURN = {"from": "human", "value": "<image>" + ASKED}
GPT = {name: {"from": "gpt", "value": side["content"]} for name, side in (("y", YES), ("n", NO))}
FORMS = {
    "bare": ({**ROW, "prompt": [user(ASKED)], "chosen": vision.chat("a cat")}, "pairs", "images"),
    "one picture in a column image": (
        {"image": PICTURE, **{k: v for k, v in ROW.items() if k != "images"}},
        "pairs",
        "image",
    ),
    "TRL's implicit prompt": (
        {
            "images": [PICTURE],
            "chosen": [*ROW["prompt"], YES],
            "rejected": [*ROW["prompt"], NO],
        },
        "pairs of conversations",
        "images",
    ),
    "LLaMA-Factory's pairs": (
        {
            "images": [PICTURE],
            "conversations": [TURN],
            "chosen": GPT["y"],
            "rejected": GPT["n"],
        },
        "llama-factory pairs",
        "images",
    ),
    "RLAIF-V": (
        {"image": PICTURE, "question": ASKED, "chosen": "a cat", "rejected": "a dog", "idx": 3},
        "questions",
        "image",
    ),
    "as datasets store it": (
        {**ROW, "images": [{"bytes": PICTURE, "path": None}]},
        "pairs",
        "images",
    ),
    "padded with nulls": (
        {
            **ROW,
            "images": [{"bytes": PICTURE, "path": None}, None],
            "prompt": [
                {
                    "role": "user",
                    "content": [
                        {**PLACE, "text": None, "image": None},
                        {"type": "text", "text": ASKED, "image": None},
                    ],
                }
            ],
        },
        "pairs",
        "images",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_the_same_tokens(form):
    row, name, column = FORMS[form]
    assert tokens(read(row, name, column)) == EXPECTED


def test_the_tokens_of_a_picture_are_the_processors_and_belong_to_the_prompt():
    prompt, chosen, _ = EXPECTED
    text = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What is it?<|im_end|>\n"
    text += "<|im_start|>assistant\n"
    made = PROCESSOR(text=[text], images=[[vision.picture(4)]])
    assert prompt == made["input_ids"][0]
    assert prompt.count(SIGHT.marks[0]) == 4
    assert WORDS.decode(chosen) == "a cat<|im_end|>\n"


def test_an_image_text_model_reads_rows_of_text_alone():
    row = {"prompt": [user(ASKED)], "chosen": [YES], "rejected": [NO]}
    words = vision.tokenizer(vision.LLAVA)
    reader = RowReader(words, RowSettings(in_parts=True), "pairs")
    prompt = reader.read(0, row).encoded.prompt
    text = f"<|im_start|>user\n{ASKED}<|im_end|>\n<|im_start|>assistant\n"
    assert words.decode(prompt) == text
    # Its template does not see messages that are plain texts.
    assert "is empty" in RowReader(words, RowSettings(), "pairs").read(0, row).bad


def test_plain_text_has_the_models_own_marks():
    row = {
        "images": [PICTURE],
        "prompt": f"{SIGHT.mark} Is it?",
        "chosen": " yes",
        "rejected": " no",
    }
    prompt = read(row).encoded.prompt
    assert prompt[:4] == [SIGHT.marks[0]] * 4
    assert "has <|image_pad|> 0 times" in read({**row, "prompt": "<image> Is it?"}).bad


def parts(*content):
    return {"prompt": [{"role": "user", "content": list(content)}]}


TEXT = {"type": "text", "text": ASKED}
BAD = {
    "more places than pictures": (parts(PLACE, PLACE, TEXT), "has 1 pictures, and its prompt 2"),
    "fewer places than pictures": (
        {"images": [PICTURE] * 2},
        "the row has 2 pictures, and its prompt 1 places for them",
    ),
    "parts without a place": (parts(TEXT), "has 1 pictures, and its prompt 0 places"),
    "a place, and no picture": ({"images": []}, "has 0 pictures, and its prompt 1 places"),
    "pictures that are null": ({"images": None}, "has 0 pictures, and its prompt 1 places"),
    "a picture in the answer": (
        {"chosen": [{"role": "assistant", "content": [PLACE, TEXT]}]},
        "a completion holds a picture; only prompts do",
    ),
    "a picture in the message": (
        parts({"type": "image", "url": "https://x.org/a.png"}, TEXT),
        "a part of the content holds its picture itself (url); put it into a column images",
    ),
    "a video in the message": (parts({"type": "video"}, PLACE, TEXT), "a part of the content is"),
    "the model's mark in the words": (
        {"chosen": [assistant("see <|image_pad|>")]},
        "the chat template writes <|image_pad|> 2 times",
    ),
    "the mark of a video": (parts(PLACE, {"type": "text", "text": "<|video_pad|>?"}), "videos"),
    "a broken file": ({"images": [PICTURE[:60]]}, "its picture: "),
    "no file": ({"images": [b"GIF?"]}, "its picture: in no image format"),
    "the second of two": (
        {"images": [PICTURE, "gone.png"], **parts(PLACE, PLACE, TEXT)},
        "picture 2 of 2: no such file: 'gone.png'",
    ),
    "an address": ({"images": ["https://x.org/a.png"]}, "web addresses are not fetched"),
    "a number": ({"images": [7]}, "its picture: holds"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_told(case):
    change, line = BAD[case]
    result = read({**ROW, **change})
    assert line in (result.bad or "")


def test_a_few_bad_rows_are_left_out_and_many_are_an_error():
    rows = [dict(ROW) for _ in range(30)]
    rows[3]["images"] = [PICTURE[:60]]
    left = ours(rows, "qwen3_vl")
    assert (len(left), [line.split(":")[0] for line in left.tally.bad]) == (29, ["row 3"])
    rows[4]["images"] = [PICTURE[:60]]
    with pytest.raises(UserError, match="2 of 30 rows cannot be used"):
        ours(rows, "qwen3_vl")


def test_a_picture_is_never_cut():
    whole = len(EXPECTED[0])
    assert read(ROW, max_length=whole).too_long == whole
    assert tokens(read(ROW, max_length=whole + 4))[0] == EXPECTED[0]
    row = {**ROW, "chosen": [assistant("cat")], "rejected": [assistant("dog")]}
    for mode in ("keep_end", "proportional"):
        kept = read(row, max_length=whole + 8, truncation_mode=mode)
        assert tokens(kept)[0].count(SIGHT.marks[0]) == 4
        assert read(row, max_length=10, truncation_mode=mode).too_long == whole


def test_a_registrys_entry_names_the_column(tmp_path):
    from diffdpo.data.text.registry import registered

    turned = {"turns": [TURN], "good": GPT["y"], "bad": GPT["n"], "photos": [PICTURE]}
    columns = {"messages": "turns", "chosen": "good", "rejected": "bad", "images": "photos"}
    entry = {"file_name": "rows.json", "ranking": True, "formatting": "sharegpt"}
    (tmp_path / "rows.json").write_text("[]")
    info = tmp_path / "dataset_info.json"
    info.write_text(json.dumps({"mine": {**entry, "columns": columns}}))
    form = registered(str(info), "mine").format
    assert form.pictures == "photos"
    assert tokens(read(turned, "mine", "photos", registered=("mine", form))) == EXPECTED


def test_models_that_read_text_alone_and_streams_refuse_pictures(tmp_path, capsys):
    with pytest.raises(
        UserError, match="column images holds images, which image–text models alone read"
    ):
        TextRows(Dataset.from_list([ROW] * 4), WORDS, RowSettings())
    model = vision.save("llava", tmp_path / "model")
    Dataset.from_list([ROW] * 4).to_parquet(tmp_path / "rows.parquet")
    words = flags(model, tmp_path / "rows.parquet", tmp_path / "out", streaming=True)
    capsys.readouterr()
    fails_with(
        words, "data: column images holds images, which image–text models alone read", capsys
    )


def test_the_preview_shows_a_picture_as_one_mark():
    (line, *_) = ours([ROW] * 2, "qwen3_vl").preview(1)
    assert "<|vision_start|><|image_pad|>×4<|vision_end|>What is it?" in line


@pytest.fixture
def looked(monkeypatch):
    """How often pictures went through a processor."""
    calls, made = [], Sight.made

    def counting(self, rows):
        calls.append(len(rows))
        return made(self, rows)

    monkeypatch.setattr(Sight, "made", counting)
    return calls


def test_tokens_of_pictures_are_stored_by_what_is_in_the_files(tmp_path, monkeypatch, looked):
    monkeypatch.setattr(PictureReader, "kept_in_memory", 0)
    names = [str(tmp_path / f"{number}.png") for number in range(2)]
    for number, name in enumerate(names):
        vision.picture(number).save(name)
    rows = [{**ROW, "images": [name]} for name in [*names, names[0]]]
    store = Store(str(tmp_path / "cache"), Accelerator(cpu=True))

    def read(rows, sight=SIGHT):
        looked.clear()
        made = PictureRows(
            Dataset.from_list(rows),
            WORDS,
            RowSettings(None, in_parts=True),
            sight,
            "images",
            Place().file,
            processes=1,
            store=store,
        )
        return made, len(looked)

    first, calls = read(rows)
    assert calls == 3
    again, calls = read(rows)
    assert calls == 0
    assert again.fingerprint == first.fingerprint
    items = zip(again.items, first.items, strict=True)  # their pictures are made at each visit
    assert all(one.pictures and one.prompt == other.prompt for one, other in items)
    assert len(looked) == 6
    assert read(rows, Sight(PROCESSOR, most=784))[1] == 3
    vision.picture(7).save(names[1])
    changed, calls = read(rows)
    assert calls == 3
    assert changed.fingerprint != first.fingerprint
    vision.picture(1).save(names[1])
    assert read(rows)[1] == 0
    other = [{**row, "images": [Path(row["images"][0]).read_bytes()]} for row in rows]
    assert read(other)[1] == 3
    assert read(other)[1] == 0
