"""The result in the form its users load: ``save_pretrained`` of the adapter or the whole model, and the tokenizer."""

from __future__ import annotations

from pathlib import Path

import yaml
from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diffdpo.config import as_dict
from diffdpo.files import atomic_files
from diffdpo.text.network import is_adapter
from diffdpo.text.settings import TextSettings

CARD = """{front}
# {name}

{what} of `{base}`, trained on text preferences ({loss}) by diffdpo.

Last logged step: {last}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")
```

## Settings

```yaml
{settings}```
"""


def export(
    network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: TextSettings, last: dict[str, float]
) -> Path:
    """Write model or adapter, tokenizer and README.md into ``output_dir``."""
    folder = Path(settings.output_dir)
    with atomic_files(folder) as draft:
        network.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        (draft / "README.md").write_text(card(network, settings, last))
    return folder


def card(network: PreTrainedModel, settings: TextSettings, last: dict[str, float]) -> str:
    """A short model card: what it is, how it is loaded, every setting."""
    base, folder = str(settings.model_name_or_path), settings.output_dir
    data = ModelCardData(base_model=base, library_name="transformers", tags=["preference-optimization"])
    shown = {k: round(v, 4) for k, v in last.items() if k in ("step", "loss", "rewards/accuracies", "rewards/margins")}
    return ModelCard(
        CARD.format(
            front=f"---\n{data.to_yaml()}\n---",
            name=Path(folder).name,
            what="An adapter" if is_adapter(network) else "A full fine-tune",
            base=base,
            loss=" + ".join(settings.loss_type),
            last=", ".join(f"{k} {v}" for k, v in shown.items()),
            folder=folder,
            settings=yaml.safe_dump(as_dict(settings), sort_keys=False),
        )
    ).content
