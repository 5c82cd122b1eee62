import hashlib
from contextlib import nullcontext
from functools import partial
from typing import List, Optional, Tuple

import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from mmrazor.models.task_modules import RecorderManager
from torch import Tensor, nn

from cankd_mm.errors import SetupError
from cankd_mm.models.distillers.recording import empty_sources, recording
from cankd_mm.models.utils import count_channels


class FrozenTeacher(nn.Module):
    """A teacher that never changes: no gradients, always in eval mode, and shared by copies of the student.

    It gets the batches of the student's data preprocessor, and runs under autocast in ``dtype`` where one is given.
    ``fingerprint`` is the SHA-256 of its weights as they were loaded, a tensor of 32 bytes.
    """

    def __init__(self, model: BaseModel, student: BaseModel, dtype: Optional[str] = None) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        preprocessors = student.data_preprocessor, model.data_preprocessor
        self.input = TeacherInput(*preprocessors, count_channels(student), count_channels(model))
        spread_grey(model)
        self.dtype = dtype and getattr(torch, dtype)
        self.fingerprint = _fingerprint(model)
        self._runs_heads = False
        self.eval()

    @torch.no_grad()
    def forward(
        self, inputs: Tensor, data_samples: Optional[List[BaseDataElement]] = None, mode: Optional[str] = None
    ) -> None:
        """Run backbone and neck on the student's batch; with mode 'tensor' also the heads, with 'loss' their losses."""
        if next(self.model.parameters()).device != inputs.device:  # a wrapper of the student moves its own children
            self.to(inputs.device)
        with nullcontext() if self.dtype is None else torch.autocast(inputs.device.type, dtype=self.dtype):
            images = self.input(inputs, data_samples)
            if mode is None:
                self.model.extract_feat(images)
            else:
                self.model(images, data_samples, mode=mode)

    def record(
        self, recorders: RecorderManager, inputs: Tensor, data_samples: Optional[list] = None, losses: bool = False
    ) -> None:
        """Run as much of the teacher as fills its recorders, on images normalized for the student; with ``losses`` all
        that a training runs. A recorder that stays empty is a SetupError.
        """
        with recording(recorders, self.model, 'teacher'):
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

    def __deepcopy__(self, memo: dict) -> 'FrozenTeacher':
        return self


def _fingerprint(model: nn.Module) -> Tensor:
    digest = hashlib.sha256()
    for key, value in model.state_dict().items():
        digest.update(key.encode())
        if not value.is_meta:
            digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8, device='cpu')


class TeacherInput(nn.Module):
    """Turn a batch normalized for the student into one normalized for the teacher, from their data preprocessors.

    Detection backbones come in two styles, 'pytorch' (RGB, divided by the standard deviation) and 'caffe' (BGR, not
    divided), and a teacher of one is useless on inputs of the other. Both normalizations are affine per channel, so
    one multiply-add leads from the student's to the teacher's. The padding becomes what the teacher would have padded.
    A teacher for colour images gets grey ones in all of its channels, one for other numbers of channels than the
    student's is a SetupError.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        if student_channels not in (1, teacher_channels):
            channels = f'images of {teacher_channels} channels and the student for {student_channels}'
            raise SetupError(f"The teacher is for {channels}: give a teacher for the student's images.")
        self.channels = teacher_channels
        s_mean, s_std, s_swaps, s_pad = _normalization(student)
        t_mean, t_std, t_swaps, self.pad_value = _normalization(teacher)
        self.flip = s_swaps != t_swaps
        if self.flip:
            s_mean, s_std = s_mean.flip(0), s_std.flip(0)
        equal = torch.equal(s_mean, t_mean) and torch.equal(s_std, t_std)
        self.identical = equal and not self.flip and self.pad_value == s_pad
        self.register_buffer('scale', (s_std / t_std).float(), persistent=False)
        self.register_buffer('shift', ((s_mean - t_mean) / t_std).float(), persistent=False)

    def forward(self, inputs: Tensor, data_samples: Optional[List[BaseDataElement]] = None) -> Tensor:
        """Normalize a batch ``(N, C, H, W)``; ``img_shape`` of the data samples tells the image from the padding."""
        if inputs.shape[1] != self.channels:
            inputs = inputs.expand(-1, self.channels, -1, -1)
        if self.identical:
            return inputs
        outputs = inputs.flip(1) if self.flip else inputs
        outputs = outputs * self.scale + self.shift
        for output, data_sample in zip(outputs, data_samples or []):
            height, width = data_sample.metainfo.get('img_shape', output.shape[1:])[:2]
            output[:, height:] = self.pad_value
            output[:, :, width:] = self.pad_value
        return outputs


def spread_grey(model: BaseModel) -> None:
    """Have the data preprocessor of a model for colour images repeat the channel of grey ones."""
    channels = count_channels(model)
    if channels > 1:
        model.data_preprocessor.register_forward_pre_hook(partial(_spread, channels))


def _spread(channels: int, preprocessor: nn.Module, args: tuple) -> tuple:
    data, *others = args
    if isinstance(data, dict) and 'inputs' in data:
        images = [image.expand(channels, -1, -1) if len(image) == 1 else image for image in data['inputs']]
        data = {**data, 'inputs': torch.stack(images) if isinstance(data['inputs'], Tensor) else images}
    return (data, *others)


def _normalization(preprocessor: nn.Module) -> Tuple[Tensor, Tensor, bool, float]:
    """Read mean and standard deviation, each ``(3 or 1, 1, 1)``, whether channels are swapped, and the padding."""
    mean, std = torch.zeros(1, 1, 1).double(), torch.ones(1, 1, 1).double()
    if getattr(preprocessor, '_enable_normalize', False):
        # In float64, so that the two affine maps compose without loss.
        mean, std = preprocessor.mean.cpu().double(), preprocessor.std.cpu().double()
    # MMEngine and MMDetection call it `_channel_conversion`, MMSegmentation `channel_conversion`.
    swaps = getattr(preprocessor, '_channel_conversion', getattr(preprocessor, 'channel_conversion', False))
    padding = getattr(preprocessor, 'pad_value', getattr(preprocessor, 'pad_val', 0))
    return mean, std, bool(swaps), float(padding)
