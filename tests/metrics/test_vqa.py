"""VQAScore on tiny models of two families: one that reads pictures of any size, one of fixed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    LlavaForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from diffdpo.metrics import REWARDS
from tests.factory import picture
from tests.metrics import tiny

PICTURES = [picture(0, (64, 40)), picture(1, (30, 90)), picture(2, (44, 44))]
PROMPTS = ["a red cat", "two dogs on a {long} walk through the park", "x"]
QUESTION = '<|im_start|>user\n{}Does this figure show "{}"? Please answer Yes or No.<|im_end|>\n'
QUESTION += "<|im_start|>assistant\n"


def qwen_by_hand(folder, image, prompt):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = Qwen2VLImageProcessorPil.from_pretrained(folder)(images=image, return_tensors="pt")
    places = "<|image_pad|>" * int(inputs["image_grid_thw"].prod() // 4)
    text = QUESTION.format(f"<|vision_start|>{places}<|vision_end|>", prompt)
    ids = tokenizer(text, return_tensors="pt").input_ids
    kinds = (ids == tokenizer.convert_tokens_to_ids("<|image_pad|>")).long()
    network = Qwen2VLForConditionalGeneration.from_pretrained(folder)
    return network(input_ids=ids, mm_token_type_ids=kinds, **inputs).logits, tokenizer


def llava_by_hand(folder, image, prompt):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    text = QUESTION.format("<image>" * 16, prompt)
    ids = tokenizer(text, return_tensors="pt").input_ids
    network = LlavaForConditionalGeneration.from_pretrained(folder)
    return network(input_ids=ids, **processor(images=image, return_tensors="pt")).logits, tokenizer


@pytest.mark.parametrize(
    ("save", "by_hand"), [(tiny.save_qwen, qwen_by_hand), (tiny.save_llava, llava_by_hand)]
)
@torch.no_grad()
def test_the_score_is_the_probability_of_yes(save, by_hand, tmp_path):
    scores = REWARDS["vqascore"](str(save(tmp_path)))(PICTURES, PROMPTS)
    expected = []
    for image, prompt in zip(PICTURES, PROMPTS, strict=True):
        logits, tokenizer = by_hand(tmp_path, image, prompt)
        expected.append(logits[0, -1].softmax(-1)[tokenizer.convert_tokens_to_ids("Yes")].item())
    assert np.ptp(expected) > 1e-4
    assert scores == pytest.approx(expected, rel=1e-4)
