from typing import Optional, Tuple, Union

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cankd_mm.errors import SetupError
from cankd_mm.models.layers import CanBlock
from cankd_mm.models.layers.affinity import at_least_float32
from cankd_mm.models.layers.can_block import Projected
from cankd_mm.models.losses.normalized_mse import NORMS, normalized_mse


class CanKDLoss(nn.Module):
    """Cross-attention-based non-local knowledge distillation (CanKD, WACV 2026) of one feature map.

    ``L = mu * MSE(IN(z), IN(t))``, where ``z`` is the student's map after its pixels have attended to the teacher's in
    the :class:`CanBlock`, and IN is instance norm without affine parameters.
    `arXiv 2511.21503 <https://arxiv.org/abs/2511.21503>`_, Sec. 3.

    The teacher's feature gets no gradient. Every level needs a loss of its own, whose block has weights of its own.

    Args:
        in_channels (int): Channels C of both features. :class:`CanKDDistiller` fills it in.
        reduction (int): The block's inner channels are ``max(C // reduction, 1)``. Defaults to 2.
        sub_sample (bool | int): The block's side of pooling windows; the paper's ablations take 2, 4 and 8. Defaults to
            True, 2.
        mode (str, optional): The block's affinity: ``'dot_product'``, ``'embedded_gaussian'``, ``'gaussian'`` or
            ``'concatenation'``. None leaves the block out, for an ablation. Defaults to 'dot_product', the paper's.
        residual (bool): Whether the block adds its input; False for the paper's ablation. Defaults to True.
        norm (str, optional): What is normalized before the comparison: ``'instance'``, the paper's, or for its
            ablations ``'layer'`` or None, nothing. Defaults to 'instance'.
        resize (str, optional): Which feature is resized, bilinearly, where their sizes differ: ``'student'``, as the
            paper does for a Swin teacher, or ``'teacher'``, whose feature the block attends to unresized. Defaults to
            None, an error.
        loss_weight (float): The paper's mu. The authors' code halves the mean squared error and writes
            ``loss_weight=10`` for mu = 5: that is ``loss_weight=5`` here, and their 20 is 10. Defaults to 5.0.

    Raises:
        SetupError: If an argument is out of range, or the two features differ in shape and are not resized.

    Examples:
        >>> # In a config; CanKDDistiller finds in_channels by itself.
        >>> distiller = dict(type='CanKDDistiller', source='neck', levels=4,
        ...                  loss=dict(type='CanKDLoss', loss_weight=5.0))
        >>> # As a plain module.
        >>> loss = CanKDLoss(in_channels=256)
        >>> loss(student_feature, teacher_feature).backward()
    """

    def __init__(
        self,
        in_channels: int,
        reduction: int = 2,
        sub_sample: Union[bool, int] = True,
        mode: Optional[str] = 'dot_product',
        residual: bool = True,
        norm: Optional[str] = 'instance',
        resize: Optional[str] = None,
        loss_weight: float = 5.0,
    ) -> None:
        super().__init__()
        if norm not in (None, *NORMS):
            raise SetupError(f"CanKDLoss has no norm {norm!r}: use 'instance', 'layer', or None for none.")
        if loss_weight < 0:
            raise SetupError(
                f'CanKDLoss got loss_weight={loss_weight}, which would drive the student away from the '
                "teacher: give the paper's mu, zero or more."
            )
        if in_channels < 1 or reduction < 1:
            raise SetupError(f'CanKDLoss got {in_channels=} and {reduction=}: both must be at least 1.')
        if resize not in (None, 'student', 'teacher'):
            advice = "say 'student' or 'teacher', or leave resize out where both features have one size."
            raise SetupError(f'CanKDLoss cannot resize {resize!r}: {advice}')
        self.norm, self.resize, self.loss_weight = norm, resize, loss_weight
        self.can = None if mode is None else CanBlock(in_channels, reduction, sub_sample, mode, residual)

    def forward(self, s_feature: Tensor, t_feature: Tensor, projected: Optional[Projected] = None) -> Tensor:
        """Compute the loss of one level.

        Args:
            s_feature (Tensor): Student feature, ``(N, C, H, W)``.
            t_feature (Tensor): Teacher feature, ``(N, C, H, W)``; with ``resize``, H and W may be others.
            projected (tuple, optional): As in :class:`CanBlock`, which it spares work: what ``s_feature`` is a 1x1
                convolution of, and that. :class:`CanKDDistiller` gives it. Defaults to None.

        Returns:
            Tensor: ``mu * MSE(IN(z), IN(t))``, a scalar.
        """
        if s_feature.numel() == 0:  # no image, or none of its pixels
            return s_feature.sum() + 0 * sum(p.sum() for p in self.parameters())
        x, t_feature, target = self.resized(s_feature, t_feature)
        projected = projected if x is s_feature else None
        z = x if self.can is None else self.can(x, t_feature, projected=projected)
        if self.norm is None:
            with torch.autocast(z.device.type, enabled=False):
                return self.loss_weight * F.mse_loss(*at_least_float32(z, target))
        return normalized_mse(z, target, self.norm, weight=self.loss_weight)

    def resized(self, s_feature: Tensor, t_feature: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """Bring the features of :meth:`forward` to one type, and to one size where ``resize`` says so: return the
        block's inputs of student and teacher, and what the block's output is compared with.
        """
        # A teacher may run in half precision beside a student that does not.
        t_feature = t_feature.detach().to(torch.promote_types(s_feature.dtype, t_feature.dtype))
        sizes = s_feature.shape[2:], t_feature.shape[2:]
        target = t_feature
        if sizes[0] != sizes[1] and self.resize == 'student':
            s_feature = F.interpolate(s_feature, sizes[1], mode='bilinear')
        elif sizes[0] != sizes[1] and self.resize == 'teacher':
            target = F.interpolate(t_feature, sizes[0], mode='bilinear')
        if s_feature.shape != target.shape:
            raise SetupError(
                f'CanKDLoss got a student feature {tuple(s_feature.shape)} and a teacher feature '
                f'{tuple(t_feature.shape)}: both must be (N, C, H, W) of one shape, or set resize where they differ '
                'in H and W.'
            )
        return s_feature, t_feature, target
