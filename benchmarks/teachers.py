"""What the pass of a teacher costs: a detector's backbone and neck, and backbones of timm, at one image size."""

import torch

import cankd_mm  # noqa: F401
from benchmarks.measure import Clock, compare, finish, parse_arguments
from cankd_mm.models.algorithms.frozen_teacher import FrozenTeacher
from cankd_mm.models.builders import build_model

TEACHERS = {
    'RetinaNet R101': 'mmdet::retinanet/retinanet_r101_fpn_2x_coco.py',
    'ConvNeXt-T': 'timm::convnext_tiny',
    'DINOv2 ViT-S/14': 'timm::vit_small_patch14_dinov2.lvd142m',
    'DINOv3 ViT-S/16': 'timm::vit_small_patch16_dinov3.lvd1689m',
}
SIZE = (800, 1344)  # of 800x1333 pixels, padded


def side(name, size, device):
    model = build_model(name, 'teacher')
    teacher = FrozenTeacher(model, model.data_preprocessor).to(device)
    image = torch.randn(1, 3, *size, device=device)

    def run():
        clock = Clock()
        teacher(image)
        clock.phase('forward')
        return clock.phases

    return run


def main():
    arguments = parse_arguments(__doc__, repeats=3)
    size = (128, 192) if arguments.quick else SIZE
    sides = {name: side(config, size, arguments.device) for name, config in TEACHERS.items()}
    (result,) = compare([sides], 1 if arguments.quick else arguments.repeats)
    finish(arguments, dict(size=size, results=result), table(result))


def table(results):
    first = next(iter(results.values()))['seconds']['total']
    lines = ['| teacher | s | to the first | peak MB |', '|---|---|---|---|']
    for name, entry in results.items():
        seconds = entry['seconds']['total']
        lines.append(f'| {name} | {seconds:.2f} | {seconds / first:.2f} | {entry["peak_mb"]:.0f} |')
    return '\n'.join(lines)


if __name__ == '__main__':
    main()
