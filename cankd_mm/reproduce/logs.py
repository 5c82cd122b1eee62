"""What MMEngine leaves in a work folder."""

import json
from pathlib import Path
from typing import List, Optional


def read_scalars(work_dir: Path) -> List[dict]:
    """Read the scalars that MMEngine has logged of a training, over all its resumptions.

    Args:
        work_dir (Path): The work folder.

    Returns:
        list[dict]: One entry per logged step and per validation, in order.
    """
    entries = []
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            try:
                entries.append(json.loads(line))
            except ValueError:  # the line that is being written
                continue
    return entries


def last_checkpoint(work_dir: Path) -> Optional[Path]:
    """Find the checkpoint that was written last, and completely.

    Args:
        work_dir (Path): The work folder.

    Returns:
        Path | None: The checkpoint, None where there is none.
    """
    # MMEngine names a checkpoint here when it is written.
    pointer = work_dir / 'last_checkpoint'
    if not pointer.exists():
        return None
    checkpoint = work_dir / Path(pointer.read_text().strip()).name
    return checkpoint if checkpoint.exists() else None
