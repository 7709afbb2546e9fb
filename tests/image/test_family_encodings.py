"""What holds for every family of the table: what is encoded is the same stored and live."""

from bisect import bisect_left

import torch

from diffdpo.image.backbones import load_backbone, load_encoders
from diffdpo.image.backbones.conditions import joined, rows_of
from tests.families import side
from tests.families.work import PROMPTS, images, inputs


def tokens_of(row):
    return max((row[name] for name in row if name.startswith("tokens")), key=len)


def test_stored_embeddings_are_live_ones(frozen):
    together = frozen.encode_prompts(PROMPTS)
    alone = joined([rows_of(frozen.encode_prompts([prompt]))[0] for prompt in PROMPTS])
    assert together.keys() == alone.keys()
    for name, value in together.items():
        assert torch.allclose(value.float(), alone[name].float(), atol=1e-6), name
    prompts = ["a cat", "a dog", ""]
    differing = rows_of(frozen.encode_prompts(prompts))
    for one, other in ((0, 1), (0, 2)):
        first, second = (tokens_of(differing[n]) for n in (one, other))
        assert first.shape != second.shape or not torch.allclose(first, second)


def test_prompts_are_cut_where_the_count_says(frozen):
    # Of one letter, which is a token in every tiny tokenizer.
    lengths = range(1, 1101)
    longest = bisect_left(lengths, 1, key=lambda length: frozen.cut_prompts(["a" * length]))
    assert frozen.cut_prompts(["a" * (longest + more) for more in (-1, 0, 1, 2)]) == 2
    whole, cut = "a" * (longest - 1), "a" * longest
    rows = rows_of(frozen.encode_prompts([whole + "a", whole + "b", cut + "b", cut + "c"]))
    read, other, *ends = map(tokens_of, rows)
    assert not torch.allclose(read, other)
    assert torch.allclose(*ends)
    if getattr(frozen, "before_prompt", str)():
        special = len(frozen.token_ids("tokenizer", [""])[0])
        assert longest + special == frozen.longest_prompt


def test_where_encodings_are_stored_no_encoder_is_needed(frozen, family, folder):
    bare, resolution = load_backbone(str(folder), encoders=False), side(family)
    assert not bare.encoders()
    assert bare.latent_shape(resolution) == frozen.latent_shape(resolution)
    assert bare.tokens(resolution) == frozen.tokens(resolution)
    call = inputs(frozen, family)
    with torch.no_grad():
        ours, theirs = (one.predict(one.network, *call) for one in (bare, frozen))
    assert torch.equal(ours, theirs)
    assert torch.equal(bare.normalise(call[0]), frozen.normalise(call[0]))
    load_encoders(bare)
    pixels = torch.stack([image.pixels_CHW for image in images(2, resolution)])
    pairs = zip(bare.encode_images(pixels, 1), frozen.encode_images(pixels, 2), strict=True)
    for ours, theirs in pairs:
        assert ours.shape[1:] == frozen.latent_shape(resolution)
        assert torch.allclose(ours, theirs, atol=1e-5)
