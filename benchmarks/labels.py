"""What labels are worth: writes pair, teacher and methods of the guide on images without labels, on the digit scenes;
and how well the predictions of a teacher rate its students.

    python -m benchmarks.labels write detection        # under work_dirs/labels-detection
    python -m benchmarks.labels agree PAIR IMAGES DIR  # DIR is the folder of a comparison
"""

import argparse
import json
import sys
from pathlib import Path

import pandas as pd
from mmengine.config import Config

import cankd_mm
from cankd_mm.apis import test
from cankd_mm.config.images import list_images
from cankd_mm.config.pair import student_config
from cankd_mm.config.read import load_config
from cankd_mm.demo.dataset import prepare

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
# The pair, a head that does not fit the teacher's, the list of the student's scenes, and the folder of all.
TASKS = {
    'detection': (
        'demo/cankd_retinanet-r18w32_retinanet-r18w16_digits300.py',
        dict(bbox_head=dict(feat_channels=48)),
        'annotations/train_small.json',
        'train',
    ),
    'segmentation': (
        'demo/cankd_fpn-r18w32_fpn-r18w16_digits300.py',
        dict(decode_head=dict(channels=48)),
        'train_small_images.txt',
        'leftImg8bit/train',
    ),
}
PHOTOS = 'data/aquarium/annotations/train.json'  # of another kind, where they are there
DATA = Path('data/digits-5000')  # of which the first 300 scenes are those of data/digits
STUDENT, TEACHER, MANY = range(300), range(300, 2300), range(2300, 5000)  # nobody sees the scenes of another
SHARES = (5, 10, 25, 50)  # per cent of the student's scenes that have labels
WEIGHTS = (5, 50, 450)
EPOCHS = 10


def write(task: str) -> None:
    """Write data and configs of a task."""
    prepare(DATA, num_train=MANY.stop)
    pair, other_head, small, images = TASKS[task]
    root, cfg, (head,) = Path(f'work_dirs/labels-{task}'), load_config(str(CONFIGS / pair)), other_head
    others = dict(train_dataloader=dict(dataset=dict(data_root=f'{DATA / task}/', indices=list(TEACHER))))
    _save(root / 'teacher.py', CONFIGS / cfg.model.teacher.replace('cankd_mm::', ''), others)
    epochs = dict(detection=4, segmentation=5)[task]
    schedule = dict(
        train_cfg=dict(max_epochs=EPOCHS, val_interval=EPOCHS),
        param_scheduler=[cfg.param_scheduler[0], dict(cfg.param_scheduler[1], T_max=EPOCHS)],
        model=dict(teacher_ckpt=f'{root}/teacher/epoch_{epochs}.pth'),
    )
    _save(root / 'cankd_digits.py', CONFIGS / pair, schedule)
    _save(root / 'nofit_digits.py', root / 'cankd_digits.py', dict(model=dict(architecture=other_head)))

    recommended = CONFIGS / f'methods/recommended-{task}.py'
    for weight in WEIGHTS:
        _save(root / f'weights/auto-pixels-{weight}.py', recommended, dict(model=_distiller(loss=_weight(weight))))

    labeled = student_config(cfg, exported=False).to_dict()['train_dataloader']['dataset']
    steps = [step for step in labeled['pipeline'] if step['type'] != 'LoadAnnotations']
    few = str(Path(labeled['data_root']) / small)
    unlabeled = dict(type='UnlabeledImages', images=few, metainfo=labeled['metainfo'], pipeline=steps)
    every = list(list_images(str(DATA / task / images)))
    (root / 'many.txt').write_text('\n'.join([*(every[i] for i in (*STUDENT, *MANY)), '']))

    frozen, alone = dict(frozen_parts=[head]), [dict(type='mmrazor.StopDistillHook', stop_epoch=0)]
    written = dict(train_dataloader=dict(dataset=dict(_teachers_labels(labeled, task, root), _delete_=True)))
    methods = {
        'recommended': dict(_base_=recommended),
        'pseudo-0': dict(written, custom_hooks=alone),
        'both-0': _on(unlabeled, recommended, frozen),
        'both-0-many': _on(dict(unlabeled, images=f'{root}/many.txt', length=len(STUDENT)), recommended, frozen),
        'both-0-no-block': _on(unlabeled, recommended, {**frozen, **_distiller(loss=dict(mode=None))}),
        **{
            f'both-0-weight-{weight}': _on(unlabeled, recommended, {**frozen, **_distiller(loss=_weight(weight))})
            for weight in WEIGHTS
        },
    }
    if Path(PHOTOS).exists():
        photos = list(list_images(PHOTOS))[: len(STUDENT)]
        for name, listed in (('photos', photos), ('mixed', [*(every[i] for i in STUDENT), *photos])):
            (root / f'{name}.txt').write_text('\n'.join([*listed, '']))
            other = dict(unlabeled, images=f'{root}/{name}.txt', length=len(STUDENT))
            methods[f'both-0-{name}'] = _on(other, recommended, frozen)
    for share in SHARES:
        number = len(STUDENT) * share // 100
        some = dict(labeled, indices=list(range(number)))
        ratio = len(STUDENT) / number - 1
        repeated = dict(type='RepeatDataset', times=len(STUDENT) // number, dataset=some)
        mixed = dict(type='LabeledAndUnlabeled', labeled=some, unlabeled=unlabeled, ratio=ratio)
        methods[f'alone-{share}'] = dict(_on(repeated), custom_hooks=alone)
        methods[f'part-{share}'] = _on(repeated, recommended)
        methods[f'both-{share}'] = _on(mixed, recommended)
        methods[f'both-{share}-frozen'] = _on(mixed, recommended, frozen)
    for name, changes in methods.items():
        _save(root / 'methods' / f'{name}.py', changes.pop('_base_', None), changes)

    # A sequence of two trainings: by way of a student of a width between the two, or of one like the last.
    widths = dict(backbone=dict(base_channels=24), neck=dict(in_channels=[24, 48, 96, 192]))
    _save(root / 'sequence/middle.py', recommended, dict(model=dict(architecture=widths)))
    twice = dict(train_cfg=dict(max_epochs=2 * EPOCHS, val_interval=2 * EPOCHS))
    twice['param_scheduler'] = [cfg.param_scheduler[0], dict(cfg.param_scheduler[1], T_max=2 * EPOCHS)]
    _save(root / 'sequence/twice.py', recommended, twice)
    for name, first in (('from-middle', 'middle'), ('from-itself', 'recommended')):
        trained = f'{root}/compare/{first}/seed0/student/{first}_student'
        then = dict(model=dict(teacher=f'{trained}.py', teacher_ckpt=f'{trained}.pth'))
        _save(root / f'sequence/then/{name}.py', recommended, then)


def _distiller(**changes: object) -> dict:
    return dict(distiller=changes)


def _weight(weight: int) -> dict:
    return dict(loss_weight=float(weight))


def _on(dataset: dict, base: Path = None, model: dict = None) -> dict:
    """Train on a data set, with the settings of a base."""
    changes = dict(train_dataloader=dict(dataset=dict(dataset, _delete_=True)))
    return {**changes, **({'_base_': base} if base else {}), **({'model': model} if model else {})}


def _teachers_labels(labeled: dict, task: str, root: Path) -> dict:
    """Have a data set take the labels that ``cankd label`` wrote into ``root/labels``."""
    labels, data = root / 'labels', Path(labeled['data_root'])
    if task == 'detection':
        return dict(
            labeled, data_root='', ann_file=f'{labels}/annotations.json', data_prefix=dict(img=str(data / 'train'))
        )
    prefix = dict(img_path=str(data / 'leftImg8bit/train/scenes'), seg_map_path=f'{labels}/label_maps')
    names = dict(ann_file=f'{labels}/images.txt', img_suffix='', seg_map_suffix='.png')
    return dict(labeled, data_root='', data_prefix=prefix, **names)


def _save(path: Path, base: Path, changes: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    base = dict(_base_=str(base.resolve())) if base else {}
    path.write_text(Config({**base, **changes}).pretty_text)


def agree(pair: str, images: str, folder: str) -> None:
    """Rate the students of a comparison by their teacher's predictions, and compare with their true figures."""
    rows = []
    for run in json.loads((Path(folder) / 'results.json').read_text())['runs']:
        found = test(pair, run['student'][1], work_dir=f'{folder}/agree', against_teacher=images)
        of_boxes, of_pixels = (found.get(f'against_teacher/{key}', 0.0) for key in ('bbox_mAP', 'mIoU'))
        figure = 100 * of_boxes + of_pixels  # there is one of both
        rows.append(dict(method=run['method'], seed=run['seed'], true=run['value'], against=figure))
    runs = pd.DataFrame(rows)
    means = runs.groupby('method')[['true', 'against']].mean()
    lines = [means.round(1).to_markdown()]
    for what, table in (('students', runs), ('methods', means)):
        lines.append(f'{len(table)} {what}: rank correlation {table["true"].corr(table["against"], "spearman"):.3f}')
    (Path(folder) / 'agree.json').write_text(json.dumps(rows))
    sys.stdout.write('\n'.join([*lines, '']))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest='step', required=True)
    steps.add_parser('write').add_argument('task', choices=list(TASKS))
    agreeing = steps.add_parser('agree')
    agreeing.add_argument('pair', help='config of the pair')
    agreeing.add_argument('images', help='images of the validation set')
    agreeing.add_argument('folder', help='of the comparison')
    arguments = vars(parser.parse_args())
    cankd_mm.register()
    dict(write=write, agree=agree)[arguments.pop('step')](**arguments)


if __name__ == '__main__':
    main()
