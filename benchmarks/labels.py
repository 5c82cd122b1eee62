"""What labels are worth: writes pair, teacher and methods of the guide on images without labels, where the student's
images are others than the teacher's; and how well the predictions of a teacher rate its students.

    python -m benchmarks.labels write detection        # under work_dirs/labels-detection
    python -m benchmarks.labels agree PAIR IMAGES DIR  # DIR is the folder of a comparison
"""

import argparse
import json
import sys
from dataclasses import dataclass
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
DIGITS = Path('data/digits-5000')  # of which the first 300 scenes are those of data/digits


@dataclass(frozen=True)
class Setting:
    """A pair, and who sees which of its images."""

    pair: str
    images: str  # all training images
    other_head: dict  # a head that does not fit the teacher's
    student: range
    teacher: range
    epochs: int  # of the student
    teacher_epochs: int
    many: range = range(0)  # images that neither sees, for a student with far more of them
    data_root: Path = None  # where it is not that of the pair

    @property
    def task(self) -> str:
        return 'detection' if 'bbox_head' in self.other_head else 'segmentation'


BOXES, MAPS = dict(bbox_head=dict(feat_channels=48)), dict(decode_head=dict(channels=48))
SCENES = dict(student=range(300), teacher=range(300, 2300), many=range(2300, 5000), epochs=10)
LITE = 'photos/cankd_{0}-lite2_{0}-lite0_{1}.py'
SETTINGS = {
    'detection': Setting(
        'demo/cankd_retinanet-r18w32_retinanet-r18w16_digits300.py', f'{DIGITS}/detection/train', BOXES, **SCENES,
        teacher_epochs=4, data_root=DIGITS / 'detection'),
    'segmentation': Setting(
        'demo/cankd_fpn-r18w32_fpn-r18w16_digits300.py', f'{DIGITS}/segmentation/leftImg8bit/train', MAPS, **SCENES,
        teacher_epochs=5, data_root=DIGITS / 'segmentation'),
    'nuclei': Setting(
        LITE.format('retinanet', 'nuclei'), 'data/nuclei/annotations/train.json', BOXES, range(0, 440, 2),
        range(1, 440, 2), epochs=4, teacher_epochs=12),
    'nuclei-maps': Setting(
        LITE.format('fpn', 'nuclei'), 'data/nuclei/images/train', MAPS, range(0, 440, 2), range(1, 440, 2), epochs=4,
        teacher_epochs=16),
    'aquarium': Setting(
        LITE.format('retinanet', 'aquarium'), 'data/aquarium/annotations/train.json', BOXES, range(0, 448, 2),
        range(1, 448, 2), epochs=4, teacher_epochs=16),
}  # fmt: skip
PHOTOS = 'data/aquarium/annotations/train.json'  # of another kind than the scenes, where they are there
SHARES = (5, 10, 25, 50)  # per cent of the student's images that have labels
WEIGHTS = (5, 50, 450)


def write(name: str) -> None:
    """Write data and configs of a setting."""
    setting = SETTINGS[name]
    if setting.data_root:
        prepare(DIGITS, num_train=setting.many.stop)
    root, cfg, (head,) = Path(f'work_dirs/labels-{name}'), load_config(str(CONFIGS / setting.pair)), setting.other_head
    student = list(setting.student)
    own = dict(data_root=f'{setting.data_root}/') if setting.data_root else {}
    others = dict(train_dataloader=dict(dataset=dict(own, indices=list(setting.teacher))))
    _save(root / 'teacher.py', CONFIGS / cfg.model.teacher.replace('cankd_mm::', ''), others)
    pair = dict(
        _schedule(cfg, setting.epochs), model=dict(teacher_ckpt=f'{root}/teacher/epoch_{setting.teacher_epochs}.pth')
    )
    if not setting.data_root:  # of the scenes, the pair has the student's already
        pair['train_dataloader'] = dict(dataset=dict(indices=student))
    _save(root / 'cankd_pair.py', CONFIGS / setting.pair, pair)
    _save(root / 'nofit_pair.py', root / 'cankd_pair.py', dict(model=dict(architecture=setting.other_head)))

    recommended = CONFIGS / 'methods/recommended.py'
    for weight in WEIGHTS:
        _save(root / f'weights/auto-pixels-{weight}.py', recommended, dict(model=_distiller(loss=_weight(weight))))

    labeled = student_config(load_config(str(root / 'cankd_pair.py')), exported=False).to_dict()
    labeled = labeled['train_dataloader']['dataset']
    steps = [step for step in labeled['pipeline'] if step['type'] != 'LoadAnnotations']
    every = list(list_images(setting.images))
    unlabeled = dict(
        type='UnlabeledImages', images=_list(root / 'student.txt', [every[i] for i in student]),
        metainfo=labeled['metainfo'], pipeline=steps)  # fmt: skip

    frozen, alone = dict(frozen_parts=[head]), [dict(type='mmrazor.StopDistillHook', stop_epoch=0)]
    methods = {
        'recommended': dict(_base_=recommended),
        'both-0': _on(unlabeled, recommended, frozen),
        'both-0-no-block': _on(unlabeled, recommended, {**frozen, **_distiller(loss=dict(mode=None))}),
        **{
            f'both-0-weight-{weight}': _on(unlabeled, recommended, {**frozen, **_distiller(loss=_weight(weight))})
            for weight in WEIGHTS
        },
    }
    for share in SHARES:
        number = len(student) * share // 100
        some = dict(labeled, indices=student[:number])
        repeated = dict(type='RepeatDataset', times=len(student) // number, dataset=some)
        mixed = dict(type='LabeledAndUnlabeled', labeled=some, unlabeled=unlabeled, ratio=len(student) / number - 1)
        methods[f'alone-{share}'] = dict(_on(repeated), custom_hooks=alone)
        methods[f'part-{share}'] = _on(repeated, recommended)
        methods[f'both-{share}'] = _on(mixed, recommended)
        methods[f'both-{share}-frozen'] = _on(mixed, recommended, frozen)
    if setting.data_root:
        written = dict(_teachers_labels(labeled, setting.task, root), _delete_=True)
        methods['pseudo-0'] = dict(train_dataloader=dict(dataset=written), custom_hooks=alone)
        lists = dict(many=[every[i] for i in (*student, *setting.many)])
        if Path(PHOTOS).exists():
            lists['photos'] = list(list_images(PHOTOS))[: len(student)]
            lists['mixed'] = [*(every[i] for i in student), *lists['photos']]
        for listed, paths in lists.items():
            other = dict(unlabeled, images=_list(root / f'{listed}.txt', paths), length=len(student))
            methods[f'both-0-{listed}'] = _on(other, recommended, frozen)
    else:  # the teacher's images with their labels, and the student's without beside them, in as many iterations
        seen = dict(labeled, indices=list(setting.teacher))
        methods['seen'] = _on(seen, recommended)
        beside = dict(type='LabeledAndUnlabeled', labeled=seen, unlabeled=unlabeled)
        methods['seen-both'] = {**_on(beside, recommended, frozen), **_schedule(cfg, setting.epochs // 2)}
    for method, changes in methods.items():
        _save(root / 'methods' / f'{method}.py', changes.pop('_base_', None), changes)

    # A sequence of two trainings: by way of a student of a width between the two, or of one like the last.
    if setting.data_root:
        widths = dict(backbone=dict(base_channels=24), neck=dict(in_channels=[24, 48, 96, 192]))
        _save(root / 'sequence/middle.py', recommended, dict(model=dict(architecture=widths)))
        _save(root / 'sequence/twice.py', recommended, _schedule(cfg, 2 * setting.epochs))
        for method, first in (('from-middle', 'middle'), ('from-itself', 'recommended')):
            trained = f'{root}/compare/{first}/seed0/student/{first}_student'
            then = dict(model=dict(teacher=f'{trained}.py', teacher_ckpt=f'{trained}.pth'))
            _save(root / f'sequence/then/{method}.py', recommended, then)


def _schedule(cfg: Config, epochs: int) -> dict:
    """Train for as many epochs."""
    return dict(
        train_cfg=dict(max_epochs=epochs, val_interval=epochs),
        param_scheduler=[cfg.param_scheduler[0], dict(cfg.param_scheduler[1], T_max=epochs)],
    )


def _list(path: Path, images: list) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join([*images, '']))
    return str(path)


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
    steps.add_parser('write').add_argument('name', choices=list(SETTINGS))
    agreeing = steps.add_parser('agree')
    agreeing.add_argument('pair', help='config of the pair')
    agreeing.add_argument('images', help='images of the validation set')
    agreeing.add_argument('folder', help='of the comparison')
    arguments = vars(parser.parse_args())
    cankd_mm.register()
    dict(write=write, agree=agree)[arguments.pop('step')](**arguments)


if __name__ == '__main__':
    main()
