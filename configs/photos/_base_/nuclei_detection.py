# 550 pictures of cell nuclei under microscopes in COCO format under data/nuclei, at up to 192x192 pixels.
_base_ = './aquarium.py'
data = dict(data_root='data/nuclei/', metainfo=dict(classes=('nucleus', )))
train_dataloader = dict(dataset=dict(data_prefix=dict(img='images/train/'), **data))
val_dataloader = dict(dataset=dict(data_prefix=dict(img='images/val/'), **data))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/nuclei/annotations/val.json')
test_evaluator = val_evaluator
