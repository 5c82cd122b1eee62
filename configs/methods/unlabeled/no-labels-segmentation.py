# The digit scenes without their labels: docs/guides/unlabeled.md.
_base_ = '../recommended.py'
model = dict(frozen_parts=['decode_head'])
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='UnlabeledImages',
        images='data/digits/segmentation/train_small_images.txt',
        metainfo=dict(classes=('background', *'0123456789')),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]))
