"""Whether a data set holds what its config says."""

from mmengine.fileio import load
from mmengine.runner import Runner

from cankd_mm.errors import SetupError, reason_of


def check_train_data(runner: Runner) -> None:
    """Build the training's data loader, and look at what it holds.

    Args:
        runner (Runner): The runner, before its training.

    Raises:
        SetupError: If an annotation file is of another format, there are no images, or a class is not in the file.
    """
    where = runner.cfg.train_dataloader.dataset
    name = where.get('ann_file') or (where.get('data_prefix') or {}).get('seg_map_path') or where.get('data_root')
    try:
        dataset = runner.train_loop.dataloader.dataset
    except (ValueError, KeyError, AssertionError, TypeError, IndexError) as e:
        if isinstance(e, SetupError) or 'registry' in str(e) or 'keyword argument' in str(e):
            raise
        if 'need at least one array' in str(e):  # what MMEngine makes of an empty list
            raise SetupError(_empty(where.type, name)) from e
        raise SetupError(
            f'The train data set cannot read {name!r} ({type(e).__name__}: {reason_of(e)}): give annotations in the '
            f'format that a {where.type} reads.'
        ) from e
    if len(dataset) == 0:
        raise SetupError(_empty(where.type, name))
    categories = getattr(dataset, 'cat_ids', None)
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if categories is not None and classes is not None and len(categories) < len(classes):
        known = {category['name'] for category in load(dataset.ann_file)['categories']}
        lacking = [name for name in classes if name not in known]
        raise SetupError(
            f'The train annotations {name!r} have no category {", ".join(map(repr, lacking))}: write '
            f'metainfo.classes as the file does ({", ".join(map(repr, sorted(known)))}).'
        )


def _empty(kind: str, name: str) -> str:
    return (
        f'The train data set {kind} finds no image with annotations in {name!r}: check ann_file, data_prefix, '
        'img_suffix and the names in metainfo.classes.'
    )
