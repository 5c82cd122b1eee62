"""A pair as it was before its training, as it is after it, and with the student that was trained alone."""

from contextlib import contextmanager
from typing import Dict, Iterator, Optional

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from torch import nn

from cankd_mm.config.pair import is_feature_distill
from cankd_mm.errors import SetupError, reason_of
from cankd_mm.models import FeatureDistill
from cankd_mm.models.builders import build_model
from cankd_mm.models.checkpoints import load_checkpoint, load_weights, student_state_dict
from cankd_mm.models.utils import quiet, untouched_generators, unwrap

BEFORE, AFTER, ALONE = 'before', 'student', 'student alone'


class Stages:
    """One model, into which the weights of a stage are put where they are wanted.

    Args:
        cfg (Config): The config of a pair.
        checkpoint (str): Of its training.
        against (str, optional): The checkpoint of the student that was trained alone. Defaults to None.

    Raises:
        SetupError: If the config is no pair, or a checkpoint does not fit it.
    """

    def __init__(self, cfg: Config, checkpoint: str, against: Optional[str] = None) -> None:
        if not is_feature_distill(cfg):
            raise SetupError(
                'Only pairs with FeatureDistill can be shown, and this config has '
                f'{str(cfg.model.get("type")).split(".")[-1]}: give the config of a distillation.'
            )
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        read = load_checkpoint(checkpoint, 'student')
        self.meta = read.get('meta', {})
        self.model: FeatureDistill = build_model(cfg.model, 'model', cfg.get('data_preprocessor'))
        load_weights(self.model, read['state_dict'], checkpoint, 'student')
        self.notes = []
        fingerprint = read['state_dict'].get('_extra_state')
        if fingerprint is not None and not torch.equal(fingerprint.cpu(), self.model.get_extra_state()):
            self.notes.append(
                f'The teacher of {checkpoint} had other weights than {self.model.teacher_ckpt} has: what is shown of '
                'the teacher is not what this student was trained with.'
            )
        self._weights: Dict[str, dict] = {AFTER: _copied(self.model.state_dict())}
        self._initial(read)
        if against is not None:
            student = student_state_dict(load_checkpoint(against, 'student')['state_dict'])
            with self.model.student_alone() as alone:
                load_weights(alone, student, against, 'student')
                self._weights[ALONE] = _copied(alone.state_dict())
        self.model.to(get_device()).eval()

    def _initial(self, read: dict) -> None:
        seed = self.meta.get('seed')
        with untouched_generators():
            if isinstance(seed, int):
                set_random_seed(seed)
            try:
                with quiet():
                    self.model.init_weights()
            except Exception as e:  # whatever fetches the weights that the student starts from
                self.notes.append(
                    f'The weights that the student starts from are not here ({reason_of(e)}), so that nothing is said '
                    'of the time before the training.'
                )
                return
        self._weights[BEFORE] = _copied(self.model.state_dict())

    def __contains__(self, stage: str) -> bool:
        return stage in self._weights

    @contextmanager
    def at(self, stage: str) -> Iterator[FeatureDistill]:
        """Put the weights of a stage into the model.

        Args:
            stage (str): ``'before'``, ``'student'`` or ``'student alone'``.

        Yields:
            FeatureDistill: The model. The distiller of the student alone is that of the training.
        """
        self.model.load_state_dict(self._weights[AFTER])
        self.model.load_state_dict(self._weights[stage], strict=stage != ALONE)
        yield self.model


class Live:
    """The pair of a training as it is now, which has no other stage.

    Args:
        model (nn.Module): A runner's model, in eval mode.

    Raises:
        SetupError: If it is no pair.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = unwrap(model)
        if not isinstance(self.model, FeatureDistill):
            raise SetupError(
                'DistillVisualizationHook is for pairs with FeatureDistill, and the model is a '
                f'{type(self.model).__name__}: take it out of custom_hooks.'
            )

    def __contains__(self, stage: str) -> bool:
        return stage == AFTER

    @contextmanager
    def at(self, stage: str) -> Iterator[FeatureDistill]:
        """Take the model as it is.

        Args:
            stage (str): ``'student'``.

        Yields:
            FeatureDistill: The model.
        """
        yield self.model


def _copied(state_dict: dict) -> dict:
    return {key: value.detach().cpu().clone() for key, value in state_dict.items()}
