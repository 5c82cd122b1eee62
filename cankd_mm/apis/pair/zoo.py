"""The models that the installed libraries name: config, weights, figures."""

import os.path as osp
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

from mmengine.fileio import load
from mmengine.utils import get_installed_path

from cankd_mm.config.paths import config_file
from cankd_mm.config.types import from_timm, installed_libraries
from cankd_mm.errors import SetupError


class ZooModel(NamedTuple):
    """A model by its config, a file or ``package::path``, with figures such as ``{'COCO': {'box AP': 38.9}}``."""

    name: str
    config: str
    weights: Optional[str] = None
    figures: Dict[str, Dict[str, float]] = {}


def find_model(key: str, whose: str) -> ZooModel:
    """Find a model by the name that its library's zoo gives it, by its config file, or by ``package::path``.

    A teacher may be ``'timm::NAME'`` as well. Weights and figures are those of the library's metafile, if any.
    """
    if whose == 'teacher' and from_timm(key):
        return ZooModel(key.split('::')[1], key)
    if '::' in key or key.endswith(('.py', '.json', '.yml', '.yaml')) or osp.isfile(key):
        if not osp.isfile(config_file(key)):
            raise SetupError(f'The {whose} {key!r} does not exist: correct the path, or give the name of a zoo model.')
        named = {model.config: model for model in zoo()} if '::' in key else {}
        return named.get(key, ZooModel(Path(key).stem, key))
    # A metafile may name a model otherwise than its config.
    found = {model.config: model for model in reversed(zoo()) if key in (model.name, Path(model.config).stem)}
    if not found:
        near = get_close_matches(key, sorted({Path(model.config).stem for model in zoo()}), n=3, cutoff=0.5)
        advice = f'did you mean {" or ".join(map(repr, near))}?' if near else 'give a name of theirs, or a config file.'
        raise SetupError(
            f'The {whose} {key!r} is neither a file nor a model of MMDetection or MMSegmentation; {advice}'
        )
    if len(found) > 1:
        choices = ' or '.join(sorted(found))
        raise SetupError(f'The {whose} {key!r} is the name of several models: give one of {choices}.')
    return next(iter(found.values()))


@lru_cache(maxsize=None)
def zoo() -> List[ZooModel]:
    """List the models of the installed libraries, after those of their metafiles the configs that none names."""
    models = []
    for package in installed_libraries():
        root = Path(get_installed_path(package)) / '.mim'
        index, paths = root / 'model-index.yml', root.glob('configs/[!_]*/*.py')
        files = {f'{package}::{path.relative_to(root / "configs").as_posix()}' for path in paths}
        for metafile in load(index)['Import'] if index.is_file() else ():
            content = load(root / metafile)
            for entry in content.get('Models') or [] if isinstance(content, dict) else content:
                # Some metafiles give the config's name without its folder, and some name a config that does not exist.
                path = f'{package}::{Path(metafile).parent.name}/{Path(entry["Config"]).name}'
                if path in files:
                    models.append(ZooModel(entry['Name'], path, entry.get('Weights'), _figures(entry.get('Results'))))
        models += [ZooModel(Path(path).stem, path) for path in sorted(files - {model.config for model in models})]
    return models


def _figures(results: object) -> Dict[str, Dict[str, float]]:
    figures: Dict[str, Dict[str, float]] = {}
    for result in results if isinstance(results, list) else [results or {}]:
        metrics = result.get('Metrics') or {}
        numbers = {key: value for key, value in metrics.items() if isinstance(value, (int, float))}
        figures.setdefault(result.get('Dataset', ''), {}).update(numbers)
    return figures
