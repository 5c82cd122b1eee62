from importlib.util import find_spec

# Without it there are no configs, and nothing to patch and register.
WITH_OPENMMLAB = find_spec('mmengine') is not None
