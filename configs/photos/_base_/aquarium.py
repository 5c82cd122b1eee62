# 575 photos of an aquarium in COCO format under data/aquarium, 7 classes, at up to 192x192 pixels.
_base_ = '../../demo/_base_/digits_detection.py'
data = dict(
    data_root='data/aquarium/', data_prefix=dict(img='images/'),
    metainfo=dict(classes=('fish', 'jellyfish', 'penguin', 'puffin', 'shark', 'starfish', 'stingray')))
resize = dict(type='Resize', scale=(192, 192), keep_ratio=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True), resize,
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')
]
test_pipeline = [_base_.test_pipeline[0], resize, *_base_.test_pipeline[2:]]
train_dataloader = dict(
    batch_size=4, dataset=dict(ann_file='annotations/train.json', pipeline=train_pipeline, **data))
val_dataloader = dict(dataset=dict(ann_file='annotations/val.json', pipeline=test_pipeline, **data))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/aquarium/annotations/val.json')
test_evaluator = val_evaluator
