"""Multi-scale deformable attention in mmcv's own torch form, by the names and arguments of its compiled operators."""

from torch import Tensor

from cankd_mm.stack.ops.sampling import gradients


def ms_deform_attn_forward(
    value: Tensor, shapes: Tensor, start_index: Tensor, locations: Tensor, weights: Tensor, im2col_step: int
) -> Tensor:
    """Attend to a few places of every level.

    Args:
        value (Tensor): ``(N, sum of H W over the levels, heads, C)``.
        shapes (Tensor): Height and width of the levels, ``(L, 2)``.
        start_index (Tensor): Where levels start, which the shapes say.
        locations (Tensor): Places between 0 and 1, ``(N, queries, heads, L, points, 2)``.
        weights (Tensor): ``(N, queries, heads, L, points)``.
        im2col_step (int): Of the compiled form alone.

    Returns:
        Tensor: ``(N, queries, heads * C)``.
    """
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)


def ms_deform_attn_backward(
    value, shapes, start_index, locations, weights, grad_output, grad_value, grad_locations, grad_weights, im2col_step
) -> None:
    """Write the gradients of value, locations and weights."""
    found = gradients(
        lambda v, x, w: ms_deform_attn_forward(v, shapes, start_index, x, w, im2col_step),
        [value, locations, weights],
        grad_output,
    )
    for taken, gradient in zip((grad_value, grad_locations, grad_weights), found):
        taken.copy_(gradient)
