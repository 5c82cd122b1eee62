# The recommended settings, with labels that `cankd label` wrote in place of the true ones.
_base_ = '../recommended.py'
train_dataloader = dict(
    dataset=dict(
        data_root='',
        ann_file='work_dirs/teachers-labels-segmentation/images.txt',
        data_prefix=dict(
            img_path='data/digits/segmentation/leftImg8bit/train/scenes',
            seg_map_path='work_dirs/teachers-labels-segmentation/label_maps'),
        img_suffix='',
        seg_map_suffix='.png'))
