from contextlib import suppress
from importlib.util import find_spec
from typing import List, Optional, Sequence, Tuple, Union

from mmengine.model import BaseModel, ImgDataPreprocessor
from mmengine.utils import import_modules_from_strings
from mmrazor.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from cankd_mm.config.pair import NO_PREDICTIONS
from cankd_mm.config.types import TIMM, from_timm
from cankd_mm.errors import SetupError, reason_of

# What most weights for RGB images expect, in units of 0 to 255.
_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

Maps = Union[Tensor, List[Tensor], Tuple[Tensor, ...]]


@MODELS.register_module()
class BackboneTeacher(BaseModel):
    """A teacher from outside: a backbone that gives feature maps, and no detector or segmentor around it.

    The backbone is a model of timm, such as DINOv2 or ConvNeXt, or any registered module, of MMPretrain or of the
    user's own, that takes images and gives a feature map ``(N, C, H, W)`` or a sequence of them. It sees the student's
    images scaled, not cropped, to a size that it takes. Its maps may have other sizes than the student's: see
    ``resize`` of :class:`CanKDLoss`. The distiller takes its features as ``teacher_source='backbone'``.

    Args:
        backbone (str | dict): ``'timm::NAME'`` with a name of timm's, or the config of a registered module.
        mean (Sequence[float], optional): The mean of the images that it was trained on, RGB, 0 to 255. Defaults to
            None: that of timm's weights, and ImageNet's for other backbones.
        std (Sequence[float], optional): Their standard deviation. Defaults to None, as the mean.
        multiple (int, optional): The student's images are scaled up to multiples of this in height and width.
            Defaults to None: the patch size of a transformer of timm, and 32 for others.
        image_size (Sequence[int], optional): The only height and width that it takes. Defaults to None, any.
        out_indices (Sequence[int], optional): The stages of a backbone of timm that are features, -1 for the last.
            Defaults to None: all of a hierarchy, the last block of a transformer.
        init_cfg (dict, optional): ``dict(type='Pretrained', checkpoint=...)``, for ``teacher_ckpt``. Defaults to None.

    Raises:
        SetupError: If timm or the model is not there.

    Examples:
        >>> teacher = 'timm::vit_small_patch14_dinov2.lvd142m'
        >>> # The same with more to say.
        >>> teacher = dict(type='BackboneTeacher', backbone='timm::convnext_tiny', out_indices=[2, 3])
    """

    def __init__(
        self,
        backbone: Union[str, dict],
        mean: Optional[Sequence[float]] = None,
        std: Optional[Sequence[float]] = None,
        multiple: Optional[int] = None,
        image_size: Optional[Sequence[int]] = None,
        out_indices: Optional[Sequence[int]] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        self.name = backbone if isinstance(backbone, str) else None  # where timm has weights
        if self.name is None:
            module, known = _registered(backbone), {}
        elif from_timm(self.name):
            module, known = _of_timm(self.name[len(TIMM) :], out_indices)
        else:
            raise SetupError(
                f"The teacher's backbone {backbone!r} is not known: name one of timm as 'timm::NAME', or give the "
                'config of a registered module.'
            )
        mean, std = mean or known.get('mean', _MEAN), std or known.get('std', _STD)
        super().__init__(ImgDataPreprocessor(mean, std, bgr_to_rgb=True), init_cfg)
        self.backbone = module
        self.multiple = multiple or known.get('multiple', 32)
        self.image_size = image_size and tuple(image_size)
        self.out_indices = out_indices

    def extract_feat(self, inputs: Tensor) -> Maps:
        """Compute the feature maps ``(N, C, H', W')`` of images of any size, normalized its own way."""
        size = self.image_size or tuple(-(-side // self.multiple) * self.multiple for side in inputs.shape[2:])
        if size != tuple(inputs.shape[2:]):
            inputs = F.interpolate(inputs, size, mode='bilinear', antialias=True)
        return self.backbone(inputs)

    def forward(self, inputs: Tensor, data_samples: Optional[list] = None, mode: str = 'tensor') -> Maps:
        """Compute the features; a mode other than 'tensor' asks for losses or predictions, and is a SetupError."""
        if mode != 'tensor':
            raise SetupError(f'The teacher {NO_PREDICTIONS}.')
        return self.extract_feat(inputs)

    def load_own_weights(self) -> str:
        """Fill the backbone with timm's weights, from its cache or its hub, and return their name."""
        name = self.name[len(TIMM) :]
        try:
            module, _ = _of_timm(name, self.out_indices, pretrained=True)
        except (OSError, RuntimeError) as e:
            raise SetupError(
                f"The teacher's weights {self.name!r} are not in timm's cache and cannot be fetched "
                f'({reason_of(e)[:120]}): run this once where there is a network, or give the file as teacher_ckpt.'
            ) from e
        self.backbone.load_state_dict(module.state_dict())
        return self.name


def _registered(backbone: dict) -> nn.Module:
    """Build a backbone, of a library that may not have been imported yet."""
    scope, dot, _ = str(backbone['type']).rpartition('.')
    if dot and scope.isidentifier() and scope not in ('mmdet', 'mmseg', 'mmrazor'):
        if find_spec(scope) is None:
            what = f"The teacher's backbone {backbone['type']!r} is of the package {scope!r}"
            raise SetupError(f'{what}, which is not installed: install it, or correct the type.')
        import_modules_from_strings(f'{scope}.models')
    return MODELS.build(backbone)


def _of_timm(name: str, out_indices: Optional[Sequence[int]], pretrained: bool = False) -> Tuple[nn.Module, dict]:
    """Create a backbone of timm, and look up what its weights expect."""
    if find_spec('timm') is None:
        raise SetupError(f'The teacher {TIMM + name!r} is a model of timm, which is not installed: pip install timm')
    import timm

    if not timm.is_model(name):
        near = timm.list_models(f'*{name.split(".")[0]}*')[:3]
        advice = f'did you mean {" or ".join(map(repr, near))}?' if near else 'see timm.list_models().'
        raise SetupError(f'timm has no model {name!r}; {advice}')
    options = dict(pretrained=pretrained, features_only=True)
    if out_indices is not None:
        options['out_indices'] = tuple(out_indices)
    module = _create(name, options)
    strides = module.feature_info.reduction()
    # All blocks of a plain transformer have one stride, and the last one knows most.
    flat = len({*strides}) == 1
    if flat and out_indices is None and len(strides) > 1:
        module = _create(name, dict(options, out_indices=(-1,)))
    if getattr(module, 'output_fmt', 'NCHW') == 'NHWC':
        module.register_forward_hook(_channels_first)
    cfg = timm.get_pretrained_cfg(name)
    patch = getattr(getattr(getattr(module, 'model', None), 'patch_embed', None), 'patch_size', None)
    known = dict(multiple=max(patch) if flat and patch else 32)
    if cfg is not None:
        known.update(mean=[255 * value for value in cfg.mean], std=[255 * value for value in cfg.std])
    return module, known


def _channels_first(module: nn.Module, args: tuple, maps: List[Tensor]) -> List[Tensor]:
    return [feature.permute(0, 3, 1, 2) for feature in maps]


def _create(name: str, options: dict) -> nn.Module:
    """Create a model of timm, and tell a transformer to take images of any size."""
    import timm

    for of_kind in (dict(dynamic_img_size=True), dict(strict_img_size=False)):
        with suppress(TypeError):
            return timm.create_model(name, **of_kind, **options)
    return timm.create_model(name, **options)
