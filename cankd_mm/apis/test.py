import copy
from typing import Dict, Optional

from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from cankd_mm.apis.against_teacher import rate_against_teacher, rate_unlabeled
from cankd_mm.apis.data import check_data, check_datasets, inner_datasets
from cankd_mm.apis.predictor import TTA_MODEL, flipped
from cankd_mm.apis.train import init_cpu_dist
from cankd_mm.config.differences import tell_changes
from cankd_mm.config.pair import is_distillation, student_config, teacher_config
from cankd_mm.config.read import load_config
from cankd_mm.errors import SetupError
from cankd_mm.models.algorithms.frozen_teacher import spread_grey
from cankd_mm.models.checkpoints import load_checkpoint, load_weights, student_state_dict
from cankd_mm.models.utils import unwrap


def test(
    config: str,
    checkpoint: Optional[str] = None,
    teacher: bool = False,
    work_dir: Optional[str] = None,
    out: Optional[str] = None,
    cfg_options: Optional[dict] = None,
    launcher: str = 'none',
    tta: bool = False,
    against_teacher: Optional[str] = None,
) -> Dict[str, float]:
    """Evaluate the student of a distillation config, its teacher, or a plain model.

    Args:
        config (str): The config file.
        checkpoint (str, optional): Of the distillation run or of the plain model. With ``teacher``, it defaults to
            the config's ``teacher_ckpt``.
        teacher (bool): Whether to evaluate the teacher in place of the student. Defaults to False.
        work_dir (str, optional): Folder of the log. Defaults to None, as in :func:`train`.
        out (str, optional): A ``.pkl`` file that takes the predictions. Defaults to None.
        cfg_options (dict, optional): Entries that override the config's. Defaults to None.
        launcher (str): ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``. Defaults to 'none'.
        tta (bool): Whether to put the predictions on several versions of each image together, as the config's
            ``tta_model`` and ``tta_pipeline`` say; MMDetection has flips as a default. Defaults to False.
        against_teacher (str, optional): Images without labels, a folder, list or COCO file: a pair's student is rated
            on them with the teacher's predictions as truth, see :func:`label`, and its metrics have the prefix
            ``against_teacher``. Defaults to None, the test data and its labels.

    Returns:
        dict[str, float]: The metrics.

    Raises:
        SetupError: If something in the config, a checkpoint or a path is wrong.
    """
    cfg = load_config(config, cfg_options, work_dir, launcher)
    given = copy.deepcopy(cfg)
    if against_teacher is None:
        rate_unlabeled(cfg, config, *([] if teacher else ['test']))
    elif teacher or not is_distillation(cfg):
        raise SetupError('--against-teacher rates the student of a pair: give the config of one, without --teacher.')
    else:
        rate_against_teacher(cfg, config, 'test', against_teacher)
    check_data(cfg, 'test')
    whose = 'teacher' if teacher else 'student' if is_distillation(cfg) else 'model'
    checkpoint = checkpoint or (cfg.model.get('teacher_ckpt') if teacher else None)
    if checkpoint is None:
        raise SetupError(f'There is no checkpoint of the {whose} to evaluate: give one after the config.')
    cfg = teacher_config(cfg) if teacher else student_config(cfg)
    cfg.load_from, cfg.resume = None, False
    if tta:
        _augment(cfg, config)
    if out is not None:
        if not out.endswith(('.pkl', '.pickle')):
            raise SetupError(f'The predictions are pickled, but --out names {out!r}: give a file that ends in .pkl.')
        evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
        dump = 'DumpDetResults' if cfg.get('default_scope') == 'mmdet' else 'DumpResults'
        cfg.test_evaluator = [*evaluators, dict(type=dump, out_file_path=out)]
    init_cpu_dist(cfg)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):  # MMEngine's is one for runs of one second
        if not cfg.get('test_dataloader'):
            problem = 'has no test data with labels'
            raise SetupError(f'{config!r} {problem}: add a test_dataloader with its test_evaluator and test_cfg.')
        runner = Runner.from_cfg(cfg)
        read = load_checkpoint(checkpoint, whose)
        state_dict = student_state_dict(read['state_dict']) if whose == 'student' else read['state_dict']
        model = unwrap(runner.model)
        load_weights(model, state_dict, checkpoint, whose)
        if teacher:
            spread_grey(model)
        else:
            tell_changes(read, given, *(cfg_options or {}))
        check_datasets(runner, 'test')
        return runner.test()


def _augment(cfg: Config, config: str) -> None:
    """Put a config's model into one for test-time augmentation, as the tools of both libraries do."""
    datasets = list(inner_datasets(cfg.test_dataloader.dataset))
    if cfg.get('default_scope') == 'mmdet':
        cfg.setdefault('tta_model', ConfigDict(TTA_MODEL))
        cfg.setdefault('tta_pipeline', ConfigDict(steps=flipped(datasets[0].pipeline)).steps)
    lacking = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if lacking:
        raise SetupError(
            f'--tta needs {" and ".join(lacking)}, which {config!r} does not say: add them as '
            'mmseg::_base_/default_runtime.py and mmseg::_base_/datasets/cityscapes.py have them, or leave --tta out.'
        )
    cfg.model = ConfigDict(cfg.tta_model, module=cfg.model)
    for dataset in datasets:
        dataset.pipeline = cfg.tta_pipeline
