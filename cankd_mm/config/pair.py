"""What a pair's config says of its student and its teacher, each as a config of its own."""

import copy
from typing import List, Optional, Set, Union

import mmengine.registry
from mmengine.config import Config
from mmengine.registry import HOOKS, LOOPS, Registry

from cankd_mm.config.read import load_model_cfg
from cankd_mm.config.types import class_of, from_timm, type_name
from cankd_mm.errors import SetupError

NO_PREDICTIONS = 'is a backbone alone, which gives features, no predictions'


def is_distillation(cfg: Config) -> bool:
    """Tell whether a config's model has a teacher and a student."""
    return 'architecture' in cfg.model and 'teacher' in cfg.model


def without_labels(cfg: dict, split: str = 'train') -> bool:
    """Tell whether no image of ``'train'``, ``'val'`` or ``'test'`` has labels."""
    return type_name((cfg.get(f'{split}_dataloader') or {}).get('dataset')) == 'UnlabeledImages'


def is_feature_distill(cfg: Config) -> bool:
    """Tell whether a config's algorithm is :class:`FeatureDistill`, and not one of MMRazor's."""
    return type_name(cfg.model) == 'FeatureDistill'


def student_config(cfg: Config, exported: bool = True) -> Config:
    """Take the student out of a distillation config; a plain one is copied.

    Args:
        cfg (Config): The config.
        exported (bool): Whether nothing is left of what this package registers, so that MMDetection or MMSegmentation
            runs the config without it. Defaults to True; otherwise only the model is exchanged.
    """
    plain = cfg.to_dict()
    if is_distillation(cfg):
        plain['model'] = copy.deepcopy(dict(_model_of(cfg.model.architecture)))
        # A config's own is given by MMEngine to any model that has none. The student's goes first here, and last in
        # MMRazor's algorithms.
        given = cfg.model.get('data_preprocessor')
        if given is not None:
            plain['model'].setdefault('data_preprocessor', given)
        if not is_feature_distill(cfg) and (given or cfg.get('data_preprocessor')):
            plain['model']['data_preprocessor'] = given or cfg.data_preprocessor
        plain.pop('distiller', None)
    loader = plain.get('train_dataloader') or {}
    if type_name(loader.get('dataset')) == 'LabeledAndUnlabeled':  # a plain training has losses of labels alone
        loader['dataset'] = loader['dataset']['labeled']
    if exported:
        _leave_out_ours(plain, _types_in(cfg.model.get('distiller')))
    return Config(_without_scope(plain, cfg.get('default_scope')))


# What DistillRunner calls the hooks that it adds: a config may switch them off.
_OUR_HOOKS = ('finite_loss', 'best_student')


def _leave_out_ours(plain: dict, distilling: Set[str]) -> None:
    """Leave out of a config what this package or MMRazor registers, and its import.

    So is what a module of the user's own registers beside one of the types that are ``distilling``.
    """
    registered = {name: _registered_by(name) for name in own_imports(plain)}
    own = set().union(*(kinds for kinds in registered.values() if kinds & distilling))
    unlabeled = without_labels(plain)

    def kept(hook: Optional[dict]) -> bool:
        return not (_is_ours(hook, HOOKS) or type_name(hook) in own or unlabeled and _acts_on_training_alone(hook))

    if 'runner_type' in plain and type_name(plain['runner_type']) == 'DistillRunner':
        del plain['runner_type']
    if plain.get('val_cfg') and _is_ours(plain['val_cfg'], LOOPS):
        plain['val_cfg'] = {key: value for key, value in plain['val_cfg'].items() if key not in ('type', 'teacher')}
    if unlabeled:
        for key in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler'):
            plain[key] = None
    leave_out_rating(plain)
    for key in ('custom_hooks', 'default_hooks'):
        hooks = plain.get(key)
        if isinstance(hooks, dict):
            plain[key] = {name: hook for name, hook in hooks.items() if kept(hook) and name not in _OUR_HOOKS}
        elif hooks:
            plain[key] = list(filter(kept, hooks))
    left = _types_in(plain)
    # The backbones are all that is here of which a student can be made.
    others = [
        name
        for name in imports_of(plain)
        if name.startswith('cankd_mm.backbones')
        or (name in registered and (registered[name] & left or not registered[name] & distilling))
    ]
    if others:
        plain['custom_imports'] = dict(plain['custom_imports'], imports=others)
    else:
        plain.pop('custom_imports', None)


def _acts_on_training_alone(hook: Optional[dict]) -> bool:
    """Tell whether a hook acts on a training or its validations and not on a test, as it may ask for their loops."""
    from mmengine.hooks import Hook  # with torch, which lists of runs do without

    kind = class_of(HOOKS, hook['type']) if hook else None
    parts = {stage.split('_')[1] for stage in Hook.get_triggered_stages(kind)} if kind else set()
    return bool(parts & {'train', 'val'}) and not parts & {'test', 'load'}


def leave_out_rating(cfg: dict) -> None:
    """Rate nothing where images have no labels."""
    for split in ('val', 'test'):
        if without_labels(cfg, split):
            for key in ('dataloader', 'evaluator', 'cfg'):
                cfg[f'{split}_{key}'] = None


def imports_of(cfg: dict) -> List[str]:
    """List the modules that a config imports."""
    imports = (cfg.get('custom_imports') or {}).get('imports') or []
    return [imports] if isinstance(imports, str) else list(imports)


def own_imports(cfg: dict) -> List[str]:
    """List the modules that a config imports, of the user's own."""
    return [name for name in imports_of(cfg) if not _is_package(name)]


def _types_in(entry: object) -> Set[str]:
    """The names of all types in a config, or a part of one."""
    found = {type_name(entry)} if isinstance(entry, dict) and entry.get('type') else set()
    parts = entry.values() if isinstance(entry, dict) else entry if isinstance(entry, (list, tuple)) else ()
    return found.union(*map(_types_in, parts))


def _registered_by(module: str) -> Set[str]:
    """The names of all that a module or package registers anywhere."""
    registries = [registry for registry in vars(mmengine.registry).values() if isinstance(registry, Registry)]
    for registry in registries:  # which grows meanwhile
        registries += registry.children.values()
    found = ((name, kind.__module__) for registry in registries for name, kind in registry.module_dict.items())
    return {name for name, where in found if f'{where}.'.startswith(f'{module}.')}


def _is_package(module: str) -> bool:
    return module.split('.')[0] in ('cankd_mm', 'mmrazor')


def _is_ours(cfg: Optional[dict], registry: Registry) -> bool:
    """Whether what a config names is registered by this package or by MMRazor."""
    name = (cfg or {}).get('type')
    kind = None if name is None or _is_package(str(name)) else class_of(registry, name)
    return _is_package(str(name) if kind is None else kind.__module__)


def teacher_config(cfg: Config) -> Config:
    """Make a plain config of a pair's teacher, which has to predict, with the student's data and evaluation."""
    if not is_distillation(cfg):
        raise SetupError('There is no teacher in this config: give a distillation config, or leave --teacher out.')
    teacher = cfg.model.teacher
    if from_timm(teacher) or not isinstance(teacher, str) and type_name(teacher) == 'BackboneTeacher':
        raise SetupError(f'The teacher {NO_PREDICTIONS}: leave --teacher out.')
    plain = student_config(cfg)
    plain.model = _model_of(teacher)
    return plain


def _model_of(model: Union[str, dict]) -> dict:
    """The config of a model that may be named by the path of its config."""
    path = model if isinstance(model, str) else model.get('cfg_path')
    return model if path is None else load_model_cfg(path)


def _without_scope(value, scope: Optional[str]):
    """Drop every ``_scope_`` that says what the config's default scope says already."""
    if isinstance(value, dict):
        return {k: _without_scope(v, scope) for k, v in value.items() if (k, v) != ('_scope_', scope)}
    if isinstance(value, (list, tuple)):
        return type(value)(_without_scope(v, scope) for v in value)
    return value
