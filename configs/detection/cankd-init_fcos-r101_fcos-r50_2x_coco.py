_base_ = './cankd_fcos-r101_fcos-r50_2x_coco.py'
model = dict(init_from_teacher=['neck', 'bbox_head'])
