_base_ = './cankd_retinanet-x101_retinanet-r50_2x_coco.py'
model = dict(init_from_teacher=['neck', 'bbox_head'])
