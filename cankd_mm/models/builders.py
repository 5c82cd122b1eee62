import copy
from typing import Optional, Union

from mmengine.model import BaseModel
from mmengine.utils import import_modules_from_strings
from mmrazor.registry import MODELS
from torch import nn

from cankd_mm.config.read import load_model_cfg
from cankd_mm.config.types import from_timm, installed_libraries, library_of
from cankd_mm.errors import SetupError


def build_model(model: Union[BaseModel, dict, str], whose: str, data_preprocessor: Optional[dict] = None) -> BaseModel:
    """Build a student or a teacher, and leave its config as it is.

    Args:
        model (BaseModel | dict | str): A built model, its config, also as ``dict(cfg_path='package::path')``, the path
            of a config, or ``'timm::NAME'``. A type without a scope is looked up in MMDetection first.
        whose (str): ``'student'`` or ``'teacher'``, for messages.
        data_preprocessor (dict, optional): Taken where the model's config has none. Defaults to None.
    """
    if isinstance(model, nn.Module):
        return model
    if from_timm(model):
        model = dict(type='mmrazor.BackboneTeacher', backbone=model)
    if isinstance(model, str):
        model = load_model_cfg(model)
    model = copy.deepcopy(model)  # models of the MM libraries write into their configs
    if 'type' in model:
        if data_preprocessor is not None:
            model.setdefault('data_preprocessor', copy.deepcopy(data_preprocessor))
        if '_scope_' not in model:
            model['_scope_'] = library_of(model['type']) or _find_scope(model['type'], whose)
    elif 'cfg_path' not in model:
        raise SetupError(f"The {whose}'s config has {sorted(model)} alone: give its 'type', or the path of its config.")
    try:
        return MODELS.build(model)
    except ValueError as e:
        if 'process group' not in str(e):
            raise
        raise SetupError(
            f"The {whose} has mmcv's synchronized batch norm, which is there in distributed trainings alone: set "
            "type='SyncBN' in place of 'MMSyncBN' in its norm_cfg, torch's own, which is built anywhere."
        ) from e


def _find_scope(name: str, whose: str) -> str:
    for scope in installed_libraries():
        if import_modules_from_strings(f'{scope}.registry').MODELS.get(name) is not None:
            return scope
    raise SetupError(
        f"The {whose}'s type {name!r} is neither in MMDetection nor in MMSegmentation: correct it, or "
        'import the package that registers it with custom_imports.'
    )
