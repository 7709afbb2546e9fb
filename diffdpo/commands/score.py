"""Lets rewards judge pictures, pairs or completions that are there: a column of scores for each
reward and, where people have chosen, how far each one agrees with them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from diffdpo.commands.score_findings import Scores, compose, find, summary
from diffdpo.commands.score_settings import PICTURES, ScoreSettings
from diffdpo.commands.score_subjects import Judge, Subject, check_captions, open_subject
from diffdpo.engine.accelerator import DTYPES, own_state, sharing_accelerator
from diffdpo.engine.console import say
from diffdpo.engine.files import atomic_file, write_atomically
from diffdpo.engine.run_folder import end, writable
from diffdpo.errors import UserError, not_installed
from diffdpo.image.reading.tally import too_many
from diffdpo.image.sampling.judged import write_pairs
from diffdpo.metrics import (
    REWARDS,
    TEXT_REWARDS,
    as_reward,
    as_text_reward,
    open_rewards,
    open_text_rewards,
    reward_problems,
)
from diffdpo.metrics.reward import introduction
from diffdpo.metrics.stored import signed_on, stored_scores
from diffdpo.report.evaluation import writing
from diffdpo.report.page import Report

PAIRS = "train-00000.parquet"


def main(settings: ScoreSettings) -> int:
    """Open, judge, write; returns the exit code."""
    folder = writable(settings.output_dir)
    with own_state():
        accelerator = sharing_accelerator()
        judge(settings, folder, accelerator)
        end(accelerator)
    return 0


def judge(settings: ScoreSettings, folder: Path, accelerator: Accelerator) -> None:
    """All of the work, in a folder that can be written."""
    say(*(f"left out     {line}" for line in not_installed("matplotlib")))
    subject = open_subject(settings)
    if settings.write_pairs and subject.pictures is None:
        raise UserError("--write_pairs writes pairs of pictures, and the data are texts")
    rewards = opened(settings, subject.kind, accelerator)
    check_captions(subject, rewards.items())
    say(f"judged       {subject.what}")
    say(*introduced(subject, rewards))
    scores, reasons = scored(settings, subject, rewards, accelerator)
    if not accelerator.is_main_process:
        return
    good = readable(subject, reasons)
    identities = {name: reward.identity for name, reward in rewards.items()}
    found = find(subject, scores, good, identities, settings.seed)
    say(*summary(found))
    source = settings.images or f"{settings.dataset_name}, split {settings.dataset_split_name}"
    report = Report(f"Scores of {source}")
    compose(report, found, [f"{reason}: left out" for reason in list(reasons.values())[:3]])
    report.section("Settings")
    report.code(json.dumps(asdict(settings), indent=2))
    with writing(folder):
        write_lines(folder / "scores.jsonl", subject, scores, good)
        content = {**found.as_dict(), "unreadable": len(reasons), "settings": asdict(settings)}
        write_atomically(folder / "score.json", json.dumps(content, indent=2) + "\n")
        report.save(folder / "report.html")
        if settings.write_pairs and subject.pictures is not None:
            write_pairs(folder / PAIRS, subject.pictures, good, scores)
    more = f", {PAIRS}" if settings.write_pairs else ""
    say(f"written      {folder}: scores.jsonl, score.json, report.html{more}")


def opened(settings: ScoreSettings, kind: str, accelerator: Accelerator) -> dict[str, Judge]:
    """The rewards, loaded. Raises UserError for one that does not judge what is there."""
    pictures = kind == PICTURES
    table: dict[str, Any] = REWARDS if pictures else TEXT_REWARDS
    as_row = as_reward if pictures else as_text_reward
    if lines := reward_problems(settings.reward, table, as_row):
        raise UserError(*(f"{line}; the data are {kind}" for line in lines))
    precision, paths = DTYPES[settings.reward_precision], settings.reward_paths
    device = accelerator.device
    if pictures:
        return dict(open_rewards(settings.reward, paths, device, precision))
    return dict(open_text_rewards(settings.reward, paths, device, precision))


def introduced(subject: Subject, rewards: Mapping[str, Judge]) -> Iterator[str]:
    """The identity of each reward, and how many items it does not read to their end."""
    for name, reward in rewards.items():
        if subject.kind == PICTURES:
            yield from introduction(name, reward, list(dict.fromkeys(subject.prompts)))
        else:
            items = subject.items(reward)
            columns = zip(*(items.read(number) for number in range(len(items))), strict=True)
            yield from introduction(name, reward, *columns, noun="texts")


def scored(
    settings: ScoreSettings,
    subject: Subject,
    rewards: Mapping[str, Judge],
    accelerator: Accelerator,
) -> tuple[Scores, dict[int, str]]:
    """The scores of all items by reward, and the reasons of those that cannot be read."""
    scores: Scores = {}
    reasons: dict[int, str] = {}
    for name, reward in rewards.items():
        items = subject.items(reward)
        signature = f"{name}: {signed_on(reward, accelerator.device)}"
        root, batch = settings.precompute_dir, settings.reward_batch_size
        scores[name], found = stored_scores(
            name, reward, signature, items, root, batch, accelerator
        )
        reasons |= {number: f"{items.named(number)}: {why}" for number, why in found.items()}
    if too_many(len(reasons), subject.count) or len(reasons) == subject.count:
        first = next(iter(reasons.values()))
        raise UserError(
            f"{len(reasons):,} of {subject.count:,} {subject.kind} cannot be read ({first})"
        )
    if reasons:
        say(f"skipped      {len(reasons):,}; {'; '.join(list(reasons.values())[:3])}")
    return scores, reasons


def readable(subject: Subject, reasons: Mapping[int, str]) -> np.ndarray:
    """The pairs, or items, of which everything can be read."""
    bad = np.zeros(subject.count, dtype=bool)
    bad[list(reasons)] = True
    lost = bad if subject.number_P2 is None else bad[subject.number_P2].any(axis=1)
    if lost.all():
        raise UserError(f"none of {len(lost):,} pairs can be read ({next(iter(reasons.values()))})")
    return np.flatnonzero(~lost)


def write_lines(path: Path, subject: Subject, scores: Scores, good: np.ndarray) -> None:
    """A line for each pair, with NAME_0 and NAME_1 of every reward, or for each item with NAME."""
    with atomic_file(path) as draft, draft.open("w", encoding="utf-8") as file:
        for at in good.tolist():
            line = subject.facts(at)
            for name, score in scores.items():
                if subject.number_P2 is None:
                    line[name] = score[at]
                else:
                    first, second = subject.number_P2[at]
                    line |= {f"{name}_0": score[first], f"{name}_1": score[second]}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
