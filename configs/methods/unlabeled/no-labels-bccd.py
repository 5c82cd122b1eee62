# The photos of blood cells without their labels: docs/guides/unlabeled.md.
_base_ = '../recommended.py'
model = dict(frozen_parts=['bbox_head'])
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='UnlabeledImages',
        images='data/bccd/annotations/train.json',
        metainfo=dict(classes=('RBC', 'WBC', 'Platelets')),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(192, 192), keep_ratio=True),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackDetInputs')
        ]))
