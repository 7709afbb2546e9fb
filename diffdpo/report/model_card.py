"""The model card of a result: what it is, how to load it, every setting."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import yaml
from huggingface_hub import ModelCard, ModelCardData

from diffdpo.config import as_dict
from diffdpo.data.paths import is_path
from diffdpo.engine.console import say
from diffdpo.engine.digests import text_digest
from diffdpo.engine.settings import TrainSettings

NAME, BESIDE = "README.md", "README.diffdpo.md"
SEAL = "\n<!-- card of a run, unchanged: {} -->\n"  # with the digest of the text before it
SHOWN = ("step", "loss", "rewards/accuracies", "rewards/margins")
CARD = """{front}
# {name}

{what}

{data}Last logged step: {last}

```python
{code}
```

## Settings

```yaml
{settings}```
"""


def model_card(
    settings: TrainSettings,
    facts: ModelCardData,
    what: str,
    code: str,
    last: Mapping[str, float],
    data: str | None = None,
) -> str:
    """The text of the card.

    ``facts`` are for the hub, ``what`` is a sentence on the result, ``code`` loads it, ``last`` is
    the last record of the run, and ``data`` the name of what it was trained on.
    """
    return ModelCard(
        CARD.format(
            front=f"---\n{facts.to_yaml()}\n---",
            name=as_markdown(Path(settings.output_dir).resolve().name),
            what=what,
            data=f"Training data: {as_markdown(data)}\n\n" if data else "",
            last=", ".join(f"{name} {last[name]:.4g}" for name in SHOWN if name in last),
            code=code,
            settings=yaml.safe_dump(as_dict(settings), sort_keys=False),
        )
    ).content


def hub_id(name: str | None) -> str | None:
    """A name as the hub knows it; None of what lies on this disk, which nobody else has."""
    return None if name is None or is_path(name) or Path(name).exists() else name


def data_of(*names: str | None) -> list[str] | None:
    """The data sets as the hub lists them, those that are there; None where none is."""
    return [found for name in names if (found := hub_id(name))] or None


def load_from(settings: TrainSettings) -> str:
    """Where the code of the card loads the result from: the hub, if it is uploaded."""
    uploaded = settings.hub_model_id if settings.push_to_hub else None
    return uploaded or settings.output_dir


def write_card(text: str, draft: Path, folder: Path) -> None:
    """Write a card into the ``draft`` of the result in ``folder``.

    It is README.md, which the hub shows. Where the user has written or changed that file, it stays,
    and the card has another name.
    """
    name = NAME if is_free(folder / NAME) else BESIDE
    if name != NAME:
        say(f"note         {folder / NAME} is not the card of a run and stays; the card is {name}")
    text = text.rstrip("\n") + "\n"
    (draft / name).write_text(text + SEAL.format(text_digest(text)))


def is_free(path: Path) -> bool:
    """Whether there is no file yet, or one that a run has written and nobody changed."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return True
    except (OSError, UnicodeDecodeError):
        return False
    before, mark, _ = text.rpartition(SEAL.partition("{}")[0])
    return bool(mark) and text == before + SEAL.format(text_digest(before))


def as_markdown(text: str) -> str:
    """Plain text as Markdown that shows just that: no markup, no HTML, one line."""
    return re.sub(r"([\\`*\[\]<>&~$|!#])", r"\\\1", " ".join(text.split()))
