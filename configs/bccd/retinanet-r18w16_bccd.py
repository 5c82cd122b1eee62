# The student on its own: 292 photos of blood cells in COCO format under data/bccd, at 320x240 pixels, from scratch.
_base_ = '../demo/_base_/retinanet_r18.py'
data = dict(data_root='data/bccd/', data_prefix=dict(img='images/'), metainfo=dict(classes=('RBC', 'WBC', 'Platelets')))
model = dict(bbox_head=dict(num_classes=3))
resize = dict(type='Resize', scale=(320, 240), keep_ratio=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True), resize,
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')
]
test_pipeline = [_base_.test_pipeline[0], resize, *_base_.test_pipeline[2:]]
train_dataloader = dict(dataset=dict(ann_file='annotations/train.json', pipeline=train_pipeline, **data))
val_dataloader = dict(dataset=dict(ann_file='annotations/val.json', pipeline=test_pipeline, **data))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/bccd/annotations/val.json')
test_evaluator = val_evaluator
