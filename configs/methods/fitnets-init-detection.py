# FitNets at MMRazor's weight for classifiers, and the head starts from the teacher's weights.
_base_ = './fitnets.py'
model = dict(init_from_teacher=['bbox_head'])
