"""The model card of a result: what it is, how to load it, every setting."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import yaml
from huggingface_hub import ModelCard, ModelCardData

from diffdpo.config import TrainSettings, as_dict

SHOWN = ("step", "loss", "rewards/accuracies", "rewards/margins")
CARD = """{front}
# {name}

{what}

Last logged step: {last}

```python
{code}
```

## Settings

```yaml
{settings}```
"""


def model_card(
    settings: TrainSettings, facts: ModelCardData, what: str, code: str, last: Mapping[str, float]
) -> str:
    """The text of the card.

    ``facts`` are for the hub, ``what`` is a sentence on the result, ``code`` loads it, and ``last``
    is the last record of the run.
    """
    return ModelCard(
        CARD.format(
            front=f"---\n{facts.to_yaml()}\n---",
            name=as_markdown(Path(settings.output_dir).resolve().name),
            what=what,
            last=", ".join(f"{name} {last[name]:.4g}" for name in SHOWN if name in last),
            code=code,
            settings=yaml.safe_dump(as_dict(settings), sort_keys=False),
        )
    ).content


def as_markdown(text: str) -> str:
    """Plain text as Markdown that shows just that: no markup, no HTML, one line."""
    return re.sub(r"([\\`*\[\]<>&~$|!#])", r"\\\1", " ".join(text.split()))
