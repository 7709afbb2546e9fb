"""The chat template that a run names in place of the tokenizer's own, and its arguments."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, nodes
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import _compile_jinja_template

from diffdpo.data.paths import is_path
from diffdpo.data.text.messages import BadRow
from diffdpo.engine.digests import text_digest
from diffdpo.errors import UserError, nearest, short
from diffdpo.text.settings import TextModelSettings
from diffdpo.text.tokens.chat import check_options

MARKS = ("{{", "{%")  # without one of them a text is no template
TURNS = re.compile(r"<\|[^<>|\s]{1,40}\|>|<(?:start|end)_of_turn>")  # as single tokens are called


def with_template(
    tokenizer: PreTrainedTokenizerBase, settings: TextModelSettings
) -> PreTrainedTokenizerBase:
    """The tokenizer with the template of ``--chat_template``, where one is named; a copy, since it
    may be the user's.

    Raises UserError where there is no such template, and where the one in use reads no argument of
    the name that ``--chat_template_kwargs`` sets.
    """
    if settings.chat_template is not None:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.chat_template = template_text(settings)
    check_arguments(tokenizer, settings.chat_template_kwargs or {})
    return tokenizer


def template_text(settings: TextModelSettings) -> str | None:
    """The Jinja text that ``--chat_template`` stands for: itself, the content of a file, or the
    template of the tokenizer in a folder or on the hub. None where no template is named.

    Raises UserError where nothing is found, or what is found is no template.
    """
    name = settings.chat_template
    if name is None:
        return None
    place, text = f"--chat_template {short(name)}", name
    if not is_template(name):
        text = from_file(Path(name), place) if Path(name).is_file() else from_tokenizer(settings)
    try:
        _compile_jinja_template(text)
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        where = f", line {line}" if line else ""
        raise UserError(f"{place}{where}: is no Jinja template ({short(error, 120)})") from error
    return text


def is_template(text: str) -> bool:
    """Whether a text is a template, and not the name of one."""
    return any(mark in text for mark in MARKS)


def from_file(path: Path, place: str) -> str:
    """The template in a file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{place}: cannot be read ({short(error, 120)})") from error
    # The JSON of a tokenizer or processor holds a template, and has braces itself.
    if path.suffix == ".json":
        raise UserError(f"{place}: is JSON; name a file of Jinja text, or a tokenizer's folder")
    if not is_template(text):
        raise UserError(f"{place}: holds no Jinja template; it has neither {{{{ nor {{%")
    return text


def from_tokenizer(settings: TextModelSettings) -> str:
    """The template of the tokenizer that the setting names."""
    name = str(settings.chat_template)
    place = f"--chat_template {short(name)}"
    # The revision and the code that may run are those of the model.
    options = {"cache_dir": settings.cache_dir, "trust_remote_code": False}
    if is_path(name) and not Path(name).is_dir():
        raise UserError(f"{place}: no such file or folder")
    try:
        found = AutoTokenizer.from_pretrained(name, **options).chat_template
    except Exception as error:  # of every kind: its files may hold anything
        raise UserError(
            f"{place}: neither a Jinja text or file nor a tokenizer's folder or hub id"
        ) from error
    if isinstance(found, dict):
        raise UserError(
            f"{place}: has several templates ({short(', '.join(found))}); write the one that is"
            " wanted to a file"
        )
    if not found:
        raise UserError(f"{place}: its tokenizer has no chat template")
    return str(found)


def check_arguments(tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any]) -> None:
    """Raises UserError where an argument of ``--chat_template_kwargs`` would be ignored."""
    if not arguments:
        return
    if not tokenizer.chat_template:
        raise UserError(
            "--chat_template_kwargs: the tokenizer has no chat template; name one with"
            " --chat_template"
        )
    try:
        check_options(arguments, tokenizer)
    except BadRow as error:
        raise UserError(f"--{error}") from error
    known = names_read(tokenizer)
    for name in sorted(set(arguments) - known):
        hint = nearest(name, known)
        raise UserError(
            f"--chat_template_kwargs: the chat template reads no {short(repr(name))}{hint}"
        )


def names_read(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """The variables that stand in a tokenizer's template, or in any of several."""
    found: Any = tokenizer.chat_template
    texts = found.values() if isinstance(found, dict) else [found]
    names: set[str] = set()
    for text in texts:
        tree = _compile_jinja_template(text).environment.parse(text)
        names |= {node.name for node in tree.find_all(nodes.Name) if node.ctx == "load"}
    return names


def in_pieces(template: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The marks of turns that a template writes and that are no tokens of the tokenizer, in the
    order of their first use. A model reads them in pieces that it was not trained on."""
    words = tokenizer.get_vocab()
    return [mark for mark in dict.fromkeys(TURNS.findall(template)) if mark not in words]


def template_line(
    settings: TextModelSettings, tokenizer: PreTrainedTokenizerBase
) -> dict[str, str]:
    """What renders conversations, for the lines at the start; none where it is the tokenizer's own
    without arguments."""
    given, arguments = settings.chat_template, settings.chat_template_kwargs
    if given is None and not arguments:
        return {}
    line = "the tokenizer's own" if given is None else "named, goes into the result's tokenizer"
    if given is not None:
        line += f" ({text_digest(given)[:12]})"
        if marks := in_pieces(given, tokenizer):
            line += f"; no tokens of this tokenizer: {short(', '.join(marks))}"
    if arguments:
        line += f"; with {short(json.dumps(arguments, ensure_ascii=False), 200)}"
    return {"template": line}
