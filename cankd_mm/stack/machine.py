import os
import platform
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Dict

import torch


def describe_machine() -> Dict[str, object]:
    """Describe the machine that figures are measured on: processor, threads, accelerators and versions.

    MMEngine's ``collect_env`` starts compilers, and names neither the processor nor the MM libraries.
    """
    cpuinfo = Path('/proc/cpuinfo')
    packages = ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmrazor', 'numpy', 'cankd_mm')
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
    return dict(
        processor=names[0] if names else platform.processor(),
        threads=torch.get_num_threads(),
        accelerators=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        python=platform.python_version(),
        versions={name: import_module(name).__version__ for name in packages if find_spec(name)},
    )


def process_rank() -> int:
    """Which of several processes this one is, as torchrun, Slurm and MPI name it before anything is initialized."""
    names = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')
    return next((int(os.environ[name]) for name in names if name in os.environ), 0)
