import hashlib
from contextlib import nullcontext
from typing import List, Optional

import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from mmrazor.models.task_modules import RecorderManager
from torch import Tensor, nn

from cankd_mm.errors import SetupError
from cankd_mm.models.algorithms.teacher_input import TeacherInput, spread_grey


class FrozenTeacher(nn.Module):
    """A teacher that never changes: no gradients, always in eval mode, on images normalized its own way.

    It is held outside the student's module tree, and a copy of the student shares it.

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
        self._runs_heads = False
        self.eval()

    @torch.no_grad()
    def forward(
        self, inputs: Tensor, data_samples: Optional[List[BaseDataElement]] = None, mode: Optional[str] = None
    ) -> None:
        """Run backbone and neck on the student's batch; with mode 'tensor' also the heads, with 'loss' their losses."""
        with nullcontext() if self.dtype is None else torch.autocast(inputs.device.type, dtype=self.dtype):
            images = self.input(inputs, data_samples)
            if mode is None:
                self.model.extract_feat(images)
            else:
                self.model(images, data_samples, mode=mode)

    def record(
        self,
        recorders: RecorderManager,
        inputs: Tensor,
        data_samples: Optional[List[BaseDataElement]] = None,
        losses: bool = False,
    ) -> None:
        """Run as much of the teacher as fills its recorders: backbone and neck, or the heads as well.

        The inputs are images normalized for the student, ``(N, 3, H, W)``. ``losses`` runs all that a training runs.

        Raises:
            SetupError: If a recorder stays empty.
        """
        with recorders:
            self(inputs, data_samples, 'loss' if losses else 'tensor' if self._runs_heads else None)
            if empty_sources(recorders) and not (losses or self._runs_heads):
                self._runs_heads = True
                self(inputs, data_samples, 'tensor')
        for source in empty_sources(recorders):
            raise SetupError(
                f"The teacher's {source!r} recorded nothing, as neither its extract_feat (backbone and neck) nor its "
                'heads run it: record a module of these.'
            )

    def train(self, mode: bool = True) -> 'FrozenTeacher':
        """Stay in eval mode, whatever the mode."""
        return super().train(False)

    def fingerprint(self) -> Tensor:
        """Compute the SHA-256 of parameters and buffers, a tensor of 32 bytes."""
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for key, value in self.model.state_dict().items():
                digest.update(key.encode())
                digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy())
            self._fingerprint = torch.tensor(list(digest.digest()), dtype=torch.uint8)
        return self._fingerprint

    def __deepcopy__(self, memo: dict) -> 'FrozenTeacher':
        return self


def empty_sources(recorders: RecorderManager) -> List[str]:
    """List the names of the modules whose recorders have recorded nothing."""
    return [recorder.source for recorder in recorders.recorders.values() if not recorder.data_buffer]
