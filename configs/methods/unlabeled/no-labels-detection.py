# The digit scenes without their labels: docs/guides/unlabeled.md.
_base_ = '../recommended.py'
model = dict(frozen_parts=['bbox_head'])
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='UnlabeledImages',
        images='data/digits/detection/annotations/train_small.json',
        metainfo=dict(classes=tuple('0123456789')),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(128, 128), keep_ratio=True),
            dict(type='PackDetInputs')
        ]))
