import os.path as osp
from typing import Optional, Tuple

from mmengine.registry import init_default_scope
from mmengine.runner import save_checkpoint

from cankd_mm.config.differences import tell_changes
from cankd_mm.config.pair import student_config
from cankd_mm.config.read import load_config
from cankd_mm.models.builders import build_model
from cankd_mm.models.checkpoints import load_checkpoint, load_weights, student_state_dict


def export_student(
    config: str, checkpoint: str, out_dir: Optional[str] = None, cfg_options: Optional[dict] = None
) -> Tuple[str, str]:
    """Write a distilled student as MMDetection or MMSegmentation has it, without teacher and without this package.

    What was written is built and loaded, strictly, to prove it.

    Args:
        config (str): The distillation config.
        checkpoint (str): A checkpoint of the distillation run.
        out_dir (str, optional): The folder to write. Defaults to None, ``student`` beside the checkpoint.
        cfg_options (dict, optional): Entries that override the config's. Defaults to None.

    Returns:
        tuple[str, str]: The plain config ``<config>_student.py`` and the checkpoint ``<config>_student.pth``.

    Raises:
        SetupError: If the checkpoint does not hold the student of this config.
    """
    cfg = load_config(config, cfg_options)
    source = load_checkpoint(checkpoint, 'student')
    tell_changes(source, cfg, *(cfg_options or {}))
    cfg = student_config(cfg)
    for key in ('work_dir', 'launcher'):
        cfg.pop(key, None)
    cfg.load_from, cfg.resume = None, False
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    student = build_model(cfg.model, 'student', cfg.get('data_preprocessor'))
    load_weights(student, student_state_dict(source['state_dict']), checkpoint, 'student')

    out_dir = out_dir or osp.join(osp.dirname(checkpoint), 'student')
    stem = osp.join(out_dir, osp.splitext(osp.basename(config))[0] + '_student')
    meta = {key: value for key, value in source.get('meta', {}).items() if key in ('dataset_meta', 'epoch', 'iter')}
    # The model's and not the file's, to which a forward pass of some models adds entries.
    save_checkpoint(dict(state_dict=student.state_dict(), meta=meta), f'{stem}.pth')
    cfg.dump(f'{stem}.py')

    written = load_checkpoint(f'{stem}.pth', 'student')
    cfg = load_config(f'{stem}.py')
    student = build_model(cfg.model, 'student', cfg.get('data_preprocessor'))
    student.load_state_dict(written['state_dict'], strict=True)
    return f'{stem}.py', f'{stem}.pth'
