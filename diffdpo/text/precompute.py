"""The reference's scores of all rows, computed once and kept on disk for every later run that would ask for the same.

The key is what the numbers depend on: the tokens (so data, template and length), the reference's weights and the
precision. Another beta, loss or learning rate finds them again.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from diffdpo.errors import UserError
from diffdpo.files import atomic_file
from diffdpo.reference import Reference, Stored
from diffdpo.run import say
from diffdpo.text.rows import TextRows
from diffdpo.text.scorer import TokenScorer
from diffdpo.text.settings import TextSettings
from diffdpo.text.task import TextTask


def store_scores(
    rows: TextRows,
    scorer: TokenScorer,
    reference: Reference,
    task: TextTask,
    settings: TextSettings,
    accelerator: Accelerator,
) -> Stored:
    """Give every item its reference scores, from disk or computed now. Raises UserError where they cannot be kept."""
    with reference.network(scorer) as network:
        key = hashlib.blake2b(
            f"{rows.fingerprint} {digest(network)} {settings.mixed_precision}".encode(), digest_size=8
        )
    path = Path(settings.reference_cache_dir).expanduser() / f"{key.hexdigest()}.safetensors"
    table = read_scores(path, len(rows))
    accelerator.wait_for_everyone()  # all have looked before anyone writes
    if table is None:
        table = compute(rows, scorer, reference, task, settings.train_batch_size, accelerator)
        if accelerator.is_main_process:
            write_scores(path, table)
        accelerator.wait_for_everyone()
        why = "none stored for these tokens, weights and precision"
        say(f"reference    scored {len(rows):,} rows: {why}; now in {path}")
    else:
        say(f"reference    scores of {len(rows):,} rows read from {path}")
    rows.items = [
        replace(item, reference=tuple(scores)) for item, scores in zip(rows.items, table.tolist(), strict=True)
    ]
    return Stored(reference)


def digest(network: nn.Module) -> str:
    """Changes when the reference's weights change. Under adapters in training these are the frozen weights."""
    weights = list(network.named_parameters())
    fixed = [(name, weight) for name, weight in weights if not weight.requires_grad] or weights
    total = hashlib.blake2b(digest_size=8)
    for name, weight in fixed:
        total.update(name.encode())
        total.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return total.hexdigest()


def compute(
    rows: TextRows, scorer: TokenScorer, reference: Reference, task: TextTask, size: int, accelerator: Accelerator
) -> Tensor:
    """Scores of all items ``(rows, completions)``; every process takes its share of the batches."""
    batches = [range(first, min(first + size, len(rows))) for first in range(0, len(rows), size)]
    own = batches[accelerator.process_index :: accelerator.num_processes]
    found: list[tuple[int, list[float]]] = []
    for batch in tqdm(own, desc="reference", unit="batch", disable=not accelerator.is_local_main_process, leave=False):
        draw = task.draw(task.collate([rows.items[index] for index in batch]))
        score = torch.as_tensor(reference.score(task.score, scorer, draw))[: len(draw.input_ids_NT)]
        found += zip(batch, score.view(-1, len(batch)).T.tolist(), strict=True)
    everyone = gather_object(found) if accelerator.num_processes > 1 else found
    return torch.tensor([scores for _, scores in sorted(everyone)])


def read_scores(path: Path, count: int) -> Tensor | None:
    """Stored scores; None where there are none, or a damaged file."""
    try:
        table = load_file(path)["scores"]
    except (OSError, SafetensorError, KeyError):
        return None
    return table if len(table) == count else None


def write_scores(path: Path, table: Tensor) -> None:
    """Keep the scores, whole or not at all. Raises UserError where the folder cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as draft:
            save_file({"scores": table}, draft)
    except (OSError, SafetensorError) as error:
        raise UserError(f"--reference_cache_dir {path.parent}: cannot be written ({error})") from error
