# The recommended settings, with labels that `cankd label` wrote in place of the true ones.
_base_ = '../recommended.py'
train_dataloader = dict(
    dataset=dict(
        data_root='', ann_file='work_dirs/labels-bccd/annotations.json', data_prefix=dict(img='data/bccd/images')))
