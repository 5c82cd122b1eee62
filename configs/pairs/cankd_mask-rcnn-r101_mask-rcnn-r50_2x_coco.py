_base_ = ['mmdet::mask_rcnn/mask-rcnn_r50_fpn_2x_coco.py', 'cankd_mm::_base_/cankd_fpn.py']
model = dict(
    _delete_=True, _scope_='mmrazor', type='FeatureDistill', architecture=_base_.model,
    teacher='mmdet::mask_rcnn/mask-rcnn_r101_fpn_2x_coco.py',
    teacher_ckpt='https://download.openmmlab.com/mmdetection/v2.0/mask_rcnn/mask_rcnn_r101_fpn_2x_coco/'
    'mask_rcnn_r101_fpn_2x_coco_bbox_mAP-0.408__segm_mAP-0.366_20200505_071027-14b391c7.pth',
    # init_from_teacher='auto',  # what fits of neck, rpn_head, roi_head
    distiller=_base_.distiller)
