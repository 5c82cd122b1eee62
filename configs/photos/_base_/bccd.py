# 292 photos of blood cells in COCO format under data/bccd, 3 classes, at up to 192x192 pixels.
_base_ = './aquarium.py'
data = dict(data_root='data/bccd/', metainfo=dict(classes=('RBC', 'WBC', 'Platelets')))
train_dataloader = dict(dataset=dict(data_prefix=dict(img='images/'), **data))
val_dataloader = dict(dataset=dict(data_prefix=dict(img='images/'), **data))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/bccd/annotations/val.json')
test_evaluator = val_evaluator
