"""The models that the installed libraries name: config, weights, figures."""

import os.path as osp
from difflib import get_close_matches
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

import yaml
from mmengine.utils import get_installed_path

from cankd_mm.config.paths import config_file
from cankd_mm.config.types import from_timm
from cankd_mm.errors import SetupError

_PACKAGES = ('mmdet', 'mmseg')


class ZooModel(NamedTuple):
    """A model by the path of its config, and what the metafile of its library says of it.

    ``config`` is a file, or ``package::path``. ``figures`` has the metrics by data set, ``{'COCO': {'box AP': 38.9}}``.
    """

    name: str
    config: str
    weights: Optional[str] = None
    figures: Dict[str, Dict[str, float]] = {}


def find_model(key: str, whose: str) -> ZooModel:
    """Find a model by the name that its library's zoo gives it, by its config file, or by ``package::path``.

    Args:
        key (str): ``'retinanet_r101_fpn_2x_coco'``, a file, or ``'mmdet::retinanet/retinanet_r101_fpn_2x_coco.py'``;
            of a teacher ``'timm::NAME'`` as well.
        whose (str): ``'student'`` or ``'teacher'``, for messages.

    Returns:
        ZooModel: The model, with weights and figures where its library's metafile has them.

    Raises:
        SetupError: If there is none, with the nearest names, or if two libraries have one of that name.
    """
    if whose == 'teacher' and from_timm(key):
        return ZooModel(key.split('::')[1], key)
    if key.endswith('.py') or '::' in key:
        package = key.split('::')[0]
        if '::' in key and find_spec(package) is None:
            raise SetupError(
                f'The {whose} {key!r} is of the package {package!r}, which is not installed: correct the name, or '
                'install it.'
            )
        if not osp.isfile(config_file(key)):
            raise SetupError(f'The {whose} {key!r} does not exist: correct the path, or give the name of a zoo model.')
        of_zoo = {model.config: model for model in zoo()} if '::' in key else {}
        return of_zoo.get(key, ZooModel(Path(key).stem, key))
    # A metafile may name a model otherwise than its config.
    found = [model for model in zoo() if key in (model.name, Path(model.config).stem)]
    if not found:
        names = {Path(model.config).stem for model in zoo()}
        near = get_close_matches(key, sorted(names), n=3, cutoff=0.5)
        advice = f'did you mean {" or ".join(map(repr, near))}?' if near else 'give a name of theirs, or a config file.'
        raise SetupError(
            f'The {whose} {key!r} is neither a file nor a model of MMDetection or MMSegmentation; {advice}'
        )
    if len({model.config for model in found}) > 1:
        raise SetupError(
            f'The {whose} {key!r} is the name of several models: give one of '
            f'{" or ".join(sorted({model.config for model in found}))}.'
        )
    return found[0]


@lru_cache(maxsize=None)
def zoo() -> List[ZooModel]:
    """List the models of the installed libraries.

    Returns:
        list[ZooModel]: Those of their metafiles, and after these the configs that no metafile names.
    """
    return [model for package in filter(find_spec, _PACKAGES) for model in _models_of(package)]


def _models_of(package: str) -> List[ZooModel]:
    root = Path(get_installed_path(package)) / '.mim'
    index = root / 'model-index.yml'
    files = {f'{package}::{path.relative_to(root / "configs").as_posix()}' for path in root.glob('configs/[!_]*/*.py')}
    models = []
    for metafile in _read(index)['Import'] if index.is_file() else ():
        content = _read(root / metafile)
        for entry in content.get('Models') or [] if isinstance(content, dict) else content:
            # Some name the file alone, and some one that is not there.
            path = f'{package}::{Path(metafile).parent.name}/{Path(entry["Config"]).name}'
            if path in files:
                models.append(ZooModel(entry['Name'], path, entry.get('Weights'), _figures(entry.get('Results'))))
    named = {model.config for model in models}
    return [*models, *(ZooModel(Path(path).stem, path) for path in sorted(files - named))]


def _read(path: Path) -> object:
    # Its parser in C reads both zoos in half a second, in Python in half a minute.
    return yaml.load(path.read_text(encoding='utf-8'), getattr(yaml, 'CSafeLoader', yaml.SafeLoader))


def _figures(results: object) -> Dict[str, Dict[str, float]]:
    figures: Dict[str, Dict[str, float]] = {}
    for result in results if isinstance(results, list) else [results or {}]:
        metrics = result.get('Metrics') or {}
        numbers = {key: value for key, value in metrics.items() if isinstance(value, (int, float))}
        figures.setdefault(result.get('Dataset', ''), {}).update(numbers)
    return figures
