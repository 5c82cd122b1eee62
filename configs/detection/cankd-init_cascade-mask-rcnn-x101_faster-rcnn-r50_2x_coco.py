# The student's box head starts from that of the teacher's first cascade stage.
_base_ = './cankd_cascade-mask-rcnn-x101_faster-rcnn-r50_2x_coco.py'
model = dict(init_from_teacher={'neck': 'neck', 'roi_head.bbox_head': 'roi_head.bbox_head.0'})
