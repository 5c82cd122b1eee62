# The box head starts from the teacher's first cascade stage, but for fc_reg: the teacher's is shared by all classes.
_base_ = './cankd_cascade-mask-rcnn-x101_faster-rcnn-r50_2x_coco.py'
model = dict(
    init_from_teacher={
        'neck': 'neck',
        'roi_head.bbox_head.shared_fcs': 'roi_head.bbox_head.0.shared_fcs',
        'roi_head.bbox_head.fc_cls': 'roi_head.bbox_head.0.fc_cls'
    })
