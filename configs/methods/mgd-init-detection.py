# MGD at its authors' weight, and the head starts from the teacher's weights.
_base_ = './mgd.py'
model = dict(init_from_teacher=['bbox_head'])
