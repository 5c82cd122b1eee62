import hashlib
from contextlib import nullcontext
from typing import List, Optional

import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from cankd_mm.models.algorithms.teacher_input import TeacherInput, spread_grey


class FrozenTeacher(nn.Module):
    """A teacher that never changes: no gradients, always in eval mode, on images normalized its own way.

    It is meant to be held outside the module tree of what it teaches. A copy of that, such as the one of an average of
    its weights, shares it.

    Args:
        model (BaseModel): The teacher, with its weights.
        preprocessor (nn.Module): The student's data preprocessor, which makes the batches.
        dtype (str, optional): ``'bfloat16'`` or ``'float16'`` for a pass under autocast in that type. Defaults to None.
    """

    def __init__(self, model: BaseModel, preprocessor: nn.Module, dtype: Optional[str] = None) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.input = TeacherInput(preprocessor, model.data_preprocessor)
        spread_grey(model.data_preprocessor)
        self.dtype = dtype and getattr(torch, dtype)
        self._fingerprint: Optional[Tensor] = None
        self.eval()

    @torch.no_grad()
    def forward(
        self, inputs: Tensor, data_samples: Optional[List[BaseDataElement]] = None, mode: Optional[str] = None
    ) -> None:
        """Run the teacher, for what recorders and deliveries take from it.

        Args:
            inputs (Tensor): Images normalized for the student, ``(N, 3, H, W)``.
            data_samples (list[BaseDataElement], optional): Their annotations. Defaults to None.
            mode (str, optional): ``'tensor'`` runs the heads as well, ``'loss'`` these and their losses. Defaults to
                None, backbone and neck.
        """
        with nullcontext() if self.dtype is None else torch.autocast(inputs.device.type, dtype=self.dtype):
            images = self.input(inputs, data_samples)
            if mode is None:
                self.model.extract_feat(images)
            else:
                self.model(images, data_samples, mode=mode)

    def train(self, mode: bool = True) -> 'FrozenTeacher':
        """Stay in eval mode.

        Args:
            mode (bool): Ignored. Defaults to True.

        Returns:
            FrozenTeacher: Itself.
        """
        return super().train(False)

    def fingerprint(self) -> Tensor:
        """Tell one teacher's weights from another's.

        Returns:
            Tensor: The SHA-256 of parameters and buffers, 32 bytes.
        """
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for key, value in self.model.state_dict().items():
                digest.update(key.encode())
                digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy())
            self._fingerprint = torch.tensor(list(digest.digest()), dtype=torch.uint8)
        return self._fingerprint

    def __deepcopy__(self, memo: dict) -> 'FrozenTeacher':
        return self
