# The recommended settings, with labels that `cankd label` wrote in place of the true ones.
_base_ = '../recommended.py'
train_dataloader = dict(
    dataset=dict(
        data_root='',
        ann_file='work_dirs/teachers-labels-detection/annotations.json',
        data_prefix=dict(img='data/digits/detection/train')))
