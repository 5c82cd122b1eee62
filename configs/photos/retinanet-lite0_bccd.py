# The student on its own.
_base_ = ['./_base_/retinanet_lite.py', './_base_/bccd.py']
model = dict(bbox_head=dict(num_classes=3))
