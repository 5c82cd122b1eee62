# The student alone, trained on 300 scenes.
_base_ = './_base_/fpn_r18.py'
train_dataloader = dict(dataset=dict(ann_file='train_small.txt'))
