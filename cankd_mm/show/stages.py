"""A pair as it was before its training, as it is after it, and with the student that was trained alone."""

from typing import Dict, List, NamedTuple, Optional

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed

from cankd_mm.config.pair import is_feature_distill
from cankd_mm.config.types import type_name
from cankd_mm.errors import SetupError, reason_of
from cankd_mm.models import FeatureDistill
from cankd_mm.models.builders import build_model
from cankd_mm.models.checkpoints import load_checkpoint, load_weights, student_state_dict
from cankd_mm.models.utils import quiet, untouched_generators

BEFORE, AFTER, ALONE = 'before', 'student', 'student alone'


class Stages(NamedTuple):
    """One model, and the weights of the stages in which it is looked at.

    Args:
        model (FeatureDistill): The pair, in eval mode.
        weights (dict[str, dict | None]): The model's state dict by stage: ``'before'``, ``'student'`` and
            ``'student alone'``, whose distiller is that of the training; None is the model as it is.
        notes (Sequence[str]): What has to be said of them, in sentences. Defaults to none.
    """

    model: FeatureDistill
    weights: Dict[str, Optional[dict]]
    notes: List[str] = ()

    def at(self, stage: str) -> FeatureDistill:
        """Put the weights of a stage into the model, and return it."""
        if self.weights[stage] is not None:
            self.model.load_state_dict(self.weights[stage])
        return self.model


def read_stages(cfg: Config, checkpoint: str, against: Optional[str] = None) -> Stages:
    """Build the pair of a training, and read or draw the weights of its stages.

    Args:
        cfg (Config): The config of a pair.
        checkpoint (str): Of its training.
        against (str, optional): The checkpoint of the student that was trained alone. Defaults to None.

    Returns:
        Stages: The stages; ``'before'`` is left out where its weights cannot be had.

    Raises:
        SetupError: If the config is no pair, or a checkpoint does not fit it.
    """
    if not is_feature_distill(cfg):
        raise SetupError(
            f'Only pairs with FeatureDistill can be shown, and this config has {type_name(cfg.model)}: give the config '
            'of a distillation.'
        )
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    read = load_checkpoint(checkpoint, 'student')
    model = build_model(cfg.model, 'model', cfg.get('data_preprocessor'))
    load_weights(model, read['state_dict'], checkpoint, 'student')
    stages = Stages(model, {AFTER: _copied(model.state_dict())}, [])
    fingerprint = read['state_dict'].get('_extra_state')
    if fingerprint is not None and not torch.equal(fingerprint.cpu(), model.get_extra_state()):
        stages.notes.append(
            f'The teacher of {checkpoint} had other weights than {model.teacher_ckpt} has: what is shown of the '
            'teacher is not what this student was trained with.'
        )
    try:
        _draw_initial_weights(model, read.get('meta', {}).get('seed'))
        stages.weights[BEFORE] = _copied(model.state_dict())
    except Exception as e:  # whatever fetches the weights that the student starts from
        stages.notes.append(
            f'The weights that the student starts from are not here ({reason_of(e)}), so that nothing is said of the '
            'time before the training.'
        )
    if against is not None:
        with model.student_alone() as alone:
            load_weights(
                alone, student_state_dict(load_checkpoint(against, 'student')['state_dict']), against, 'student'
            )
            stages.weights[ALONE] = {**stages.weights[AFTER], **_copied(alone.state_dict())}
    model.to(get_device()).eval()
    return stages


def _draw_initial_weights(model: FeatureDistill, seed: object) -> None:
    with untouched_generators(), quiet():
        if isinstance(seed, int):
            set_random_seed(seed)
        model.init_weights()


def _copied(state_dict: dict) -> dict:
    return {key: value.detach().cpu().clone() for key, value in state_dict.items()}
