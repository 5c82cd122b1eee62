from typing import List, Optional, Tuple

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from cankd_mm.errors import SetupError


class TeacherInput(nn.Module):
    """Turn a batch normalized for the student into one normalized for the teacher.

    Detection backbones come in two styles: 'pytorch' (RGB, divided by the standard deviation) and 'caffe' (BGR, not
    divided). A teacher of one style is useless on inputs of the other. Both normalizations are affine per channel, so
    one multiply-add leads from the student's to the teacher's. The padding becomes what the teacher would have padded.
    A teacher for colour images gets the single channel of grey ones in all of its channels.

    Args:
        student (nn.Module): The student's data preprocessor.
        teacher (nn.Module): The teacher's data preprocessor.

    Raises:
        SetupError: If the teacher is for images of fewer channels than the student.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        s_mean, s_std = _statistics(student)
        t_mean, t_std = _statistics(teacher)
        if getattr(teacher, '_enable_normalize', False) and len(t_mean) < len(s_mean):
            raise SetupError(
                f'The teacher is for images of {len(t_mean)} channels and the student for {len(s_mean)}: give a '
                "teacher for the student's images."
            )
        self.flip = _swaps_channels(student) != _swaps_channels(teacher)
        if self.flip:
            s_mean, s_std = s_mean.flip(0), s_std.flip(0)
        self.pad_value = _pad_value(teacher)
        self.identical = (
            not self.flip
            and torch.equal(s_mean, t_mean)
            and torch.equal(s_std, t_std)
            and self.pad_value == _pad_value(student)
        )
        self.register_buffer('scale', (s_std / t_std).float(), persistent=False)
        self.register_buffer('shift', ((s_mean - t_mean) / t_std).float(), persistent=False)

    def forward(self, inputs: Tensor, data_samples: Optional[List[BaseDataElement]] = None) -> Tensor:
        """Normalize a batch ``(N, 3, H, W)``; ``img_shape`` of the data samples tells the image from the padding."""
        if self.identical:
            return inputs
        outputs = inputs.flip(1) if self.flip else inputs
        outputs = outputs * self.scale + self.shift
        for output, data_sample in zip(outputs, data_samples or []):
            height, width = data_sample.metainfo.get('img_shape', output.shape[1:])[:2]
            output[:, height:] = self.pad_value
            output[:, :, width:] = self.pad_value
        return outputs


def spread_grey(preprocessor: nn.Module) -> None:
    """Have the data preprocessor of a teacher for colour images repeat the channel of grey ones."""
    channels = len(_statistics(preprocessor)[0])

    def spread(module: nn.Module, args: tuple) -> tuple:
        data, *others = args
        if isinstance(data, dict) and 'inputs' in data:
            images = [image.expand(channels, -1, -1) if len(image) == 1 else image for image in data['inputs']]
            data = {**data, 'inputs': torch.stack(images) if isinstance(data['inputs'], Tensor) else images}
        return (data, *others)

    if channels > 1:
        preprocessor.register_forward_pre_hook(spread)


def _statistics(preprocessor: nn.Module) -> Tuple[Tensor, Tensor]:
    """Mean and standard deviation, each ``(3 or 1, 1, 1)``; 0 and 1 where nothing is normalized."""
    if getattr(preprocessor, '_enable_normalize', False):
        # In float64, so that the two affine maps compose without loss.
        return preprocessor.mean.cpu().double(), preprocessor.std.cpu().double()
    return torch.zeros(1, 1, 1).double(), torch.ones(1, 1, 1).double()


def _swaps_channels(preprocessor: nn.Module) -> bool:
    # MMEngine and MMDetection call it `_channel_conversion`, MMSegmentation `channel_conversion`.
    return bool(getattr(preprocessor, '_channel_conversion', getattr(preprocessor, 'channel_conversion', False)))


def _pad_value(preprocessor: nn.Module) -> float:
    return float(getattr(preprocessor, 'pad_value', getattr(preprocessor, 'pad_val', 0)))
