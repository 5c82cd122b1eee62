# At ninety times the paper's weight, for segmentors whose head fits the teacher's. See docs/comparison.md.
_base_ = './recommended.py'
model = dict(distiller=dict(loss=dict(loss_weight=450.0)))
