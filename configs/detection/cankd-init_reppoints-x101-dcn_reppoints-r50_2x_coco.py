_base_ = './cankd_reppoints-x101-dcn_reppoints-r50_2x_coco.py'
model = dict(init_from_teacher=['neck', 'bbox_head'])
