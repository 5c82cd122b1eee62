# The student on its own.
_base_ = ['./_base_/fpn_lite.py', './_base_/nuclei_segmentation.py']
