"""The chat template that a run names, and its arguments: where it is found, used and recorded."""

import json

import pytest
import yaml
from transformers import AutoTokenizer

from diffdpo.errors import UserError
from diffdpo.text.evaluate_settings import EvaluateTextSettings
from diffdpo.text.settings import TextSettings
from diffdpo.text.tokens.template import in_pieces, template_text, with_template
from tests.text.factory import CHATML, LLAMA3, MOODY, chat_rows, save_model, tokenizer, write_jsonl
from tests.text.runs import fails_with, flags, train

ARGUED = MOODY.replace("({{ mood }})", "({{ mood }})!")


@pytest.mark.parametrize("kind", ["text", "file", "folder"])
def test_a_template_is_its_text_a_file_of_it_or_that_of_a_tokenizer(tmp_path, kind):
    (tmp_path / "chat.jinja").write_text(LLAMA3)
    tokenizer(LLAMA3).save_pretrained(tmp_path / "words")
    name = {"text": LLAMA3, "file": tmp_path / "chat.jinja", "folder": tmp_path / "words"}[kind]
    settings = TextSettings(chat_template=str(name))
    assert template_text(settings) == LLAMA3
    own = tokenizer(CHATML)
    assert with_template(own, settings).chat_template == LLAMA3
    assert own.chat_template == CHATML  # the user's own stays as it is
    assert with_template(own, TextSettings()) is own


def test_what_is_no_template_is_one_line(tmp_path):
    (tmp_path / "notes.txt").write_text("be kind")
    (tmp_path / "broken.jinja").write_text("{% for m in messages %}\n{{ m.content }")
    (tmp_path / "config.json").write_text(json.dumps({"chat_template": CHATML}))
    tokenizer().save_pretrained(tmp_path / "bare")
    several = tokenizer()
    several.chat_template = {"default": CHATML, "tool_use": LLAMA3}
    several.save_pretrained(tmp_path / "several")
    for name, line in {
        "notes.txt": "holds no Jinja template",
        "broken.jinja": ", line 2: is no Jinja template",
        "config.json": "is JSON",
        "gone": "no such file or folder",
        "bare": "its tokenizer has no chat template",
        "several": "has several templates (default, tool_use)",
    }.items():
        with pytest.raises(UserError) as caught:
            template_text(TextSettings(chat_template=str(tmp_path / name)))
        assert line in caught.value.mistakes[0], name


@pytest.mark.parametrize(
    ("template", "arguments", "line"),
    [
        (None, {"mood": 1}, "the tokenizer has no chat template"),
        (CHATML, {"mood": 1}, "the chat template reads no 'mood'"),
        (MOODY, {"mod": 1}, "reads no 'mod' (did you mean mood?)"),
        (MOODY, {"tokenize": True}, "chat_template_kwargs sets tokenize"),
    ],
)
def test_an_argument_that_would_be_ignored_is_refused(template, arguments, line):
    with pytest.raises(UserError) as caught:
        with_template(tokenizer(template), TextSettings(chat_template_kwargs=arguments))
    assert line in caught.value.mistakes[0]


def test_a_run_renders_by_them_records_them_and_exports_them(tmp_path, capsys):
    rows = chat_rows(8)
    rows[1]["chat_template_kwargs"] = json.dumps({"mood": "cross"})
    for row in rows:
        row.setdefault("chat_template_kwargs", None)
    data, lm = write_jsonl(tmp_path / "rows.jsonl", rows), save_model(tmp_path / "lm", None)
    (tmp_path / "chat.jinja").write_text(ARGUED)
    capsys.readouterr()  # of saving
    fails_with(flags(lm, data, tmp_path / "none"), "name one with --chat_template", capsys)
    own = {
        "chat_template_path": tmp_path / "chat.jinja",
        "chat_template_kwargs": '{"mood": "glad"}',
    }
    own |= {"max_train_steps": 1, "preview": 2, "precompute_ref_log_probs": True}
    own["reference_cache_dir"] = tmp_path / "cache"

    def run(name, **changes):
        train(*flags(lm, data, tmp_path / name, **own | changes))
        return capsys.readouterr().out

    out = run("run")
    assert "template     named, goes into the result's tokenizer" in out
    assert "row 0, masked" in out
    assert "'(glad)![user]" in out
    assert "'(cross)![user]" in out
    assert "those stored differ in tokens" in run("other", chat_template_kwargs='{"mood": "mild"}')
    assert "8 rows read from" in run("again")
    recorded = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert recorded["chat_template"] == ARGUED
    assert recorded["chat_template_kwargs"] == {"mood": "glad"}
    assert AutoTokenizer.from_pretrained(tmp_path / "run").chat_template == ARGUED
    beneath = EvaluateTextSettings.beneath({"policy": [str(tmp_path / "run")]}).content
    assert beneath["chat_template"] == ARGUED
    assert beneath["chat_template_kwargs"] == {"mood": "glad"}


def test_marks_that_are_no_tokens_are_named(tmp_path, capsys):
    known = "<|im_start|>{{ messages }}<|im_end|>"
    assert in_pieces(known, tokenizer()) == []
    other = "{{ x }}<|turn|>a<start_of_turn><|turn|><|pad|>"
    assert in_pieces(other, tokenizer()) == ["<|turn|>", "<start_of_turn>"]
    model, rows = save_model(tmp_path / "model"), write_jsonl(tmp_path / "rows.jsonl", chat_rows(8))
    more = {"chat_template": CHATML.replace("im_start", "turn"), "max_train_steps": 1}
    train(*flags(model, rows, tmp_path / "run", **more))
    assert "no tokens of this tokenizer: <|turn|>\n" in capsys.readouterr().out
