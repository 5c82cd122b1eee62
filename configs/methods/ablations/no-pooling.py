# Keys and values of every pixel of the teacher.
model = dict(distiller=dict(loss=dict(sub_sample=False)))
