_base_ = './cankd_faster-rcnn-r101_faster-rcnn-r50_2x_coco.py'
model = dict(init_from_teacher=['neck', 'roi_head.bbox_head'])
