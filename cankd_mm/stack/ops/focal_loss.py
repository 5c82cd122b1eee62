"""The sigmoid focal loss in plain torch, by the names and arguments of mmcv's compiled operators."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cankd_mm.stack.ops.sampling import gradients


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Compute the focal loss of every class.

    Args:
        input (Tensor): Logits, ``(N, C)``.
        target (Tensor): Classes, of which others than 0 to C - 1 are background, ``(N, )``.
        weight (Tensor): Of the classes, ``(C, )``, or empty.
        output (Tensor): Takes the result, ``(N, C)``.
        gamma (float): The focusing parameter.
        alpha (float): The weight of the positive class.
    """
    output.copy_(_focal_loss(input, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the gradient of the sum of :func:`sigmoid_focal_loss_forward` into ``grad_input``, ``(N, C)``."""
    ones = torch.ones_like(input)
    grad_input.copy_(gradients(lambda x: _focal_loss(x, target, weight, gamma, alpha), [input], ones)[0])


def _focal_loss(input: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    positive = target[:, None] == torch.arange(input.shape[1], device=input.device)
    p = input.sigmoid()
    loss = torch.where(
        positive,
        -alpha * (1 - p) ** gamma * F.logsigmoid(input),
        -(1 - alpha) * p**gamma * F.logsigmoid(-input),
    )
    if weight.numel():
        known = (target >= 0) & (target < len(weight))
        loss = loss * torch.where(known, weight[target.clamp(0, len(weight) - 1)], 1)[:, None]
    return loss
