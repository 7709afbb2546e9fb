"""Log-probabilities of given tokens, and the token metrics that TRL reports, with few passes over
the logits and without a second tensor of their size kept for the gradient.

Shapes: ``P`` positions × ``V`` words.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Columns of the result: log p of the target; whether no word is likelier; entropy; mean logit; and
# log Σ p², the logarithm of the chance that two words drawn are the same. The last four make a
# training step 1 % longer (width 384, 32,000 words, one CPU core).
LOGP, IS_TOP, ENTROPY, MEAN_LOGIT, LOG_COLLISION = range(5)
COLUMNS = 5
# Logits that are worked on at once. On a CPU a block stays in the cache: 8 rows of 32,000 take 0.23
# of the time of 1,024 (one core).
BLOCK = {"cpu": 1 << 18}
LARGE_BLOCK = 1 << 24


class TokenLogProbability(torch.autograd.Function):
    """Maps logits ``(P, V)`` of any precision and targets ``(P,)`` to log-probabilities ``(P, 1)``
    in float32, or with ``extra`` to all columns, ``(P, 5)``, of which only ``LOGP`` has a gradient.

    log p = z_y − log Σ exp(z), so ∂ log p / ∂ z = onehot(y) − softmax(z). The gradient is written
    over the logits, so nothing else may read them afterwards; autograd refuses a second backward
    pass.
    """

    @staticmethod
    def forward(ctx: Any, logits_PV: Tensor, target_P: Tensor, extra: bool) -> Tensor:
        column_PK = logits_PV.new_empty(
            len(logits_PV), COLUMNS if extra else 1, dtype=torch.float32
        )
        normaliser_P = column_PK.new_empty(len(column_PK))
        for rows in blocks(logits_PV):
            normaliser_P[rows] = measure(logits_PV[rows].float(), target_P[rows], column_PK[rows])
        # One number a row is kept beside the logits; the backward pass makes the softmax of it.
        ctx.save_for_backward(logits_PV, normaliser_P, target_P)
        return column_PK

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        logits_PV, normaliser_P, target_P = ctx.saved_tensors
        grad_P = grads[0][:, LOGP]
        for rows in blocks(logits_PV):
            # A view of the logits where they are float32, so this writes over them; else a copy,
            # whose gradient is rounded back into them.
            grad = logits_PV[rows].float()
            grad.sub_(normaliser_P[rows, None]).exp_().mul_(-grad_P[rows, None])
            grad.scatter_add_(1, target_P[rows, None], grad_P[rows, None])
            if grad.dtype != logits_PV.dtype:
                logits_PV[rows].copy_(grad)
        return logits_PV, None, None


def blocks(logits_PV: Tensor) -> list[slice]:
    """The slices of rows that are worked on one after another."""
    count, words = logits_PV.shape
    step = max(1, BLOCK.get(logits_PV.device.type, LARGE_BLOCK) // words)
    return [slice(first, first + step) for first in range(0, count, step)]


def measure(logits_PV: Tensor, target_P: Tensor, out_PK: Tensor) -> Tensor:
    """Fills the columns of one block and returns log Σ exp(z) ``(P,)``.

    The entropy is log Σ exp(z) − Σ p z. A target is on top where no word is likelier; TRL asks
    besides that no word before it is as likely.
    """
    # The largest logit is taken off before exp, which then neither overflows nor vanishes.
    top_P1 = logits_PV.amax(dim=1, keepdim=True)
    weight_PV = torch.sub(logits_PV, top_P1).exp_()
    total_P = weight_PV.sum(dim=1)
    ahead_P = logits_PV.gather(1, target_P[:, None]).sub_(top_P1).squeeze(1)
    normaliser_P = top_P1.squeeze(1) + total_P.log()
    # Not z_y − log Σ exp(z): both may be large, and their difference would lose its digits.
    out_PK[:, LOGP] = ahead_P - total_P.log()
    if out_PK.shape[1] > 1:
        out_PK[:, IS_TOP] = ahead_P == 0
        out_PK[:, ENTROPY] = normaliser_P - torch.linalg.vecdot(weight_PV, logits_PV) / total_P
        out_PK[:, MEAN_LOGIT] = logits_PV.mean(dim=1)
        collision_P = torch.linalg.vecdot(weight_PV, weight_PV)
        out_PK[:, LOG_COLLISION] = collision_P.log() - 2 * total_P.log()
    return normaliser_P
