# The same pictures with a label map each: background, nuclei, and the border between them.
_base_ = '../../demo/_base_/digits_segmentation.py'
data = dict(
    data_root='data/nuclei/', img_suffix='.jpg', seg_map_suffix='.png',
    metainfo=dict(classes=('background', 'nucleus', 'border'), palette=[[0, 0, 0], [220, 20, 60], [0, 200, 0]]))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(320, 320), ratio_range=(0.8, 1.6), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(160, 160)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs')
]
train_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img_path='images/train', seg_map_path='label_maps/train'), pipeline=train_pipeline, **data))
val_dataloader = dict(
    batch_size=1,  # of many sizes
    dataset=dict(data_prefix=dict(img_path='images/val', seg_map_path='label_maps/val'), **data))
test_dataloader = val_dataloader
