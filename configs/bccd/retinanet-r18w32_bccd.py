# The teacher: twice as wide as the student.
_base_ = './retinanet-r18w16_bccd.py'
width = 32
model = dict(
    backbone=dict(base_channels=width), neck=dict(in_channels=[width, 2 * width, 4 * width, 8 * width]))
