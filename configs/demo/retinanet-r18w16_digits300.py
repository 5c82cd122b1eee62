# The student alone, trained on 300 scenes.
_base_ = './_base_/retinanet_r18.py'
train_dataloader = dict(dataset=dict(ann_file='annotations/train_small.json'))
