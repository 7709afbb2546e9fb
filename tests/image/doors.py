"""Models that are refused, each in one line."""

import pytest

from diffdpo.errors import UserError
from diffdpo.image.backbones import load_backbone
from tests.factory import FAMILIES

SD, SDXL = FAMILIES
UNET_FILE = "unet/diffusion_pytorch_model.safetensors"


def refused(folder, line, **options):
    with pytest.raises(UserError, match=line) as caught:
        load_backbone(str(folder), **options)
    assert len(str(caught.value)) < 600
