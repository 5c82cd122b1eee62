"""Write configs as a person would."""

from typing import List, Optional

from cankd_mm.apis.pair.plan import Plan

_WIDTH = 118


def pair_text(plan: Plan, student: str, method: Optional[dict] = None) -> str:
    """Write the config of a pair.

    Args:
        plan (Plan): The pair.
        student (str): What the student's config is called in ``_base_``.
        method (dict, optional): What a method changes in the pair's ``model``. Defaults to None, nothing.

    Returns:
        str: The config.
    """
    settings = dict(plan.source.settings)
    base = 'cankd_fpn' if settings['source'] == 'neck' else 'cankd_backbone'
    defaults = dict(cankd_fpn=dict(source='neck', levels=4), cankd_backbone=dict(source='backbone', levels=[-1]))[base]
    changes = {key: settings.get(key) for key in (*defaults, *settings) if settings.get(key) != defaults.get(key)}
    method = method or {}
    changes.update(method.get('distiller', {}))
    loss = dict(changes.pop('loss', {}), **(dict(resize=plan.source.resize) if plan.source.resize else {}))
    words = [f'{key}={value!r}' for key, value in changes.items()]
    if loss:
        entries = ', '.join(f'{key}={value!r}' for key, value in loss.items())
        words.append(f'loss=dict(_base_.distiller.loss, {entries})')
    distiller = f'dict(_base_.distiller, {", ".join(words)})' if words else '_base_.distiller'
    if len(distiller) > _WIDTH - 16:
        distiller = f'dict(\n        _base_.distiller, {", ".join(words[:-1])},\n        {words[-1]})'
    lines = [
        f"_base_ = ['{student}', 'cankd_mm::_base_/{base}.py']",
        'model = dict(',
        "    _delete_=True, _scope_='mmrazor', type='FeatureDistill', architecture=_base_.model,",
        f'    teacher={plan.teacher.config!r},',
    ]
    if plan.teacher_ckpt:
        lines += _broken('    teacher_ckpt=', plan.teacher_ckpt)
    if 'init_from_teacher' in method:
        lines.append(f"    init_from_teacher={method['init_from_teacher']!r},")
    elif fitting := [part for part in dict.fromkeys(part.split('.')[0] for part in plan.parts) if part != 'backbone']:
        lines.append(f"    # init_from_teacher='auto',  # what fits of {', '.join(fitting)}")
    lines.append(f'    distiller={distiller})')
    return '\n'.join(lines) + '\n'


def _broken(key: str, address: str) -> List[str]:
    """An entry whose value goes on in a second line where it is long."""
    if len(key) + len(address) + 3 <= _WIDTH:
        return [f'{key}{address!r},']
    at = address.rfind('/') + 1
    return [f'{key}{address[:at]!r}', f'    {address[at:]!r},']
