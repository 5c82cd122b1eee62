import os.path as osp
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from mmengine.config import Config
from torch import nn

from cankd_mm.apis.data import missing_data
from cankd_mm.config.metric import metric_of
from cankd_mm.config.read import load_config
from cankd_mm.errors import SetupError
from cankd_mm.show import samples, sections
from cankd_mm.show.attention import Point, check_point
from cankd_mm.show.page import Section, write_page
from cankd_mm.show.stages import Stages
from cankd_mm.stack.machine import describe_machine

_BLOCK_IMAGES = 3  # of which the page shows where the blocks look


def show(
    config: str,
    checkpoint: str,
    images: Optional[Sequence[str]] = None,
    split: str = 'val',
    count: int = 8,
    against: Optional[str] = None,
    at: Optional[Point] = None,
    out: Optional[str] = None,
    evaluate: bool = True,
    cfg_options: Optional[dict] = None,
) -> Path:
    """Write a page that shows what a student has learnt from its teacher, and where it has not.

    Args:
        config (str): The config of a pair.
        checkpoint (str): A checkpoint of its training, beside whose log it lies.
        images (Sequence[str], optional): Image files to look at. Defaults to None, images of the data.
        split (str): Which data the images are of: ``'val'``, ``'test'`` or ``'train'``. Defaults to 'val'.
        count (int): How many images of the data. Defaults to 8.
        against (str, optional): A checkpoint of the student that was trained alone. Defaults to None.
        at (tuple[float, float], optional): x and y of the pixel whose attention is shown, in pixels of the image.
            Defaults to None, the centres of the largest objects.
        out (str, optional): The folder to write. Defaults to None, ``show`` beside the checkpoint.
        evaluate (bool): Whether the models are rated on the whole validation set. Defaults to True.
        cfg_options (dict, optional): Entries that override the config's. Defaults to None.

    Returns:
        Path: ``report.html``; its pictures lie beside it as PNG.

    Raises:
        SetupError: If a checkpoint does not fit the config, an image is not there, or a point lies outside of one.
    """
    cfg = load_config(config, cfg_options)
    stages = Stages(cfg, checkpoint, against)
    chosen = samples.from_files(cfg, images) if images else samples.from_split(cfg, split, count)
    if not chosen:
        raise SetupError('There is no image to look at: give --images, or -n of at least 1.')
    for sample in chosen:
        check_point(at, sample.annotations)
    not_rated = _not_rated(cfg) if evaluate else 'The models were not rated on the validation set, as --no-eval said.'
    changes = sections.changes(stages, cfg, chosen, rated=not_rated is None)
    changes.words.extend([*stages.notes, *([not_rated] if not_rated else [])])
    folder = Path(checkpoint).parent
    parts: List[Section] = [
        changes,
        *sections.features(stages, chosen),
        sections.attention(stages, chosen[:_BLOCK_IMAGES], at),
        sections.run(folder, metric_of(cfg)),
    ]
    what = f'{len(chosen)} files' if images else f'{len(chosen)} of {split}, evenly spaced'
    facts = [('config', config), ('checkpoint', checkpoint), *_facts(cfg, stages), ('images', what)]
    if against:
        facts.insert(2, ('student alone', against))
    title = f'What {_name(cfg.model.architecture)} learnt from {_name(cfg.model.teacher)}'
    facts.append(('written by', f'cankd-mm {describe_machine()["versions"]["cankd_mm"]}'))
    return write_page(Path(out) if out else folder / 'show', title, facts, parts)


def _not_rated(cfg: Config) -> Optional[str]:
    """Why the models cannot be rated; None where they can."""
    if not cfg.get('val_dataloader'):
        return 'The config has no validation set to rate the models on.'
    for _, path in missing_data(cfg, 'val'):
        return f'The models were not rated: the validation set needs {path}, which is not here.'
    return None


def _facts(cfg: Config, stages: Stages) -> List[Tuple[str, str]]:
    """What the config says of the distillation."""
    teacher, distiller = cfg.model.teacher, cfg.model.distiller
    with stages.model.student_alone() as student:
        size = _millions(student)
    levels = [name.replace('loss_', '', 1) for name in stages.model.distiller.distill_losses]
    loss = ', '.join(f'{key}={value}' for key, value in distiller.get('loss', {}).items())
    return [
        ('teacher', f'{teacher if isinstance(teacher, str) else _name(teacher)}, {_millions(stages.model.teacher)}'),
        ('student', f'{_name(cfg.model.architecture)}, {size}'),
        ('levels', ', '.join(levels)),
        ('loss', loss or 'of the long form'),
        ('starts from the teacher', ', '.join(stages.model.init_from_teacher) or 'nothing'),
    ]


def _name(model: object) -> str:
    if isinstance(model, str):
        return osp.splitext(osp.basename(model.split('::')[-1]))[0]
    backbone = model.get('backbone') or {}
    backbone = backbone if isinstance(backbone, dict) else dict(type=backbone)
    words = [
        model.get('type', model.get('cfg_path', 'model')),
        f'{backbone.get("type", "")}{backbone.get("depth", "")}',
    ]
    return ' '.join(str(word).split('.')[-1].split('::')[-1] for word in words).strip()


def _millions(model: nn.Module) -> str:
    return f'{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters'
