from pathlib import Path
from typing import List, Optional, Sequence, Union

from mmengine.config import Config

from cankd_mm.apis.data import missing_data
from cankd_mm.config.metric import metric_of
from cankd_mm.config.read import load_config
from cankd_mm.config.types import type_name
from cankd_mm.errors import SetupError
from cankd_mm.show import sections
from cankd_mm.show.features import Point
from cankd_mm.show.page import write_page
from cankd_mm.show.stages import from_files, from_split, read_stages
from cankd_mm.stack.machine import describe_machine


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
    stages = read_stages(cfg, checkpoint, against)
    chosen = from_files(cfg, images) if images else from_split(cfg, split, count)
    if not chosen:
        raise SetupError('There is no image to look at: give --images, or -n of at least 1.')
    for info in (sample.annotations.metainfo for sample in chosen):
        height, width = info['ori_shape'][:2]
        if at is not None and not (0 <= at[0] < width and 0 <= at[1] < height):
            where = f'The point x={at[0]:g}, y={at[1]:g} lies outside of {info.get("img_path")!r}'
            raise SetupError(f'{where} of {width}x{height} pixels: give --at a point inside, or images that have it.')
    not_rated = _not_rated(cfg, evaluate)
    changed = sections.changes(stages, cfg, chosen, rated=not not_rated)
    changed.words.extend([*stages.notes, *not_rated])
    folder = Path(checkpoint).parent
    parts = [changed, *sections.features(stages, chosen, at), sections.run(folder, metric_of(cfg))]
    model, teacher = stages.model, cfg.model.teacher
    with model.student_alone() as student:
        millions = [sum(p.numel() for p in m.parameters()) / 1e6 for m in (model.teacher, student)]
    loss = ', '.join(f'{key}={value}' for key, value in cfg.model.distiller.get('loss', {}).items())
    facts = [
        ('config', config),
        ('checkpoint', checkpoint),
        *([('student alone', against)] if against else []),
        ('teacher', f'{teacher if isinstance(teacher, str) else _name(teacher)}, {millions[0]:.2f} M parameters'),
        ('student', f'{_name(cfg.model.architecture)}, {millions[1]:.2f} M parameters'),
        ('levels', ', '.join(name.replace('loss_', '', 1) for name in model.distiller.distill_losses)),
        ('loss', loss or 'of the long form'),
        ('starts from the teacher', ', '.join(model.init_from_teacher) or 'nothing'),
        ('images', f'{len(chosen)} files' if images else f'{len(chosen)} of {split}, evenly spaced'),
        ('written by', f'cankd-mm {describe_machine()["versions"]["cankd_mm"]}'),
    ]
    title = f'What {_name(cfg.model.architecture)} learnt from {_name(teacher)}'
    return write_page(Path(out) if out else folder / 'show', title, facts, parts)


def _not_rated(cfg: Config, evaluate: bool) -> List[str]:
    """Say why the models are not rated, where they are not."""
    if not evaluate:
        return ['The models were not rated on the validation set, as --no-eval said.']
    if not cfg.get('val_dataloader'):
        return ['The config has no validation set to rate the models on.']
    for _, path in missing_data(cfg, 'val'):
        return [f'The models were not rated: the validation set needs {path}, which is not here.']
    return []


def _name(model: Union[str, dict]) -> str:
    """A model by the name of its config file, or by the types of itself and its backbone."""
    path = model if isinstance(model, str) else model.get('cfg_path')
    if path:
        return Path(path.split('::')[-1]).stem
    backbone = model.get('backbone') or ''
    depth = backbone.get('depth', '') if isinstance(backbone, dict) else ''
    return f'{type_name(model)} {type_name(backbone).split("::")[-1]}{depth}'.strip()
