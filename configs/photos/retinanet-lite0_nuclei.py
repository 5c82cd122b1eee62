# The student on its own, with anchors of 8 and 11 pixels on the first level: half of the nuclei are smaller than 9.
_base_ = ['./_base_/retinanet_lite.py', './_base_/nuclei_detection.py']
model = dict(bbox_head=dict(num_classes=1, anchor_generator=dict(octave_base_scale=1)))
