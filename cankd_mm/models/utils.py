from difflib import get_close_matches

from mmengine.model import is_model_wrapper
from torch import nn

from cankd_mm.errors import SetupError


def find_module(model: nn.Module, name: str, whose: str) -> nn.Module:
    """Find a module by its dotted name.

    Args:
        model (nn.Module): The student or the teacher.
        name (str): The module's name, as in ``model.named_modules()``.
        whose (str): ``'student'`` or ``'teacher'``, for the message.

    Returns:
        nn.Module: The module.

    Raises:
        SetupError: If there is none of that name. The message lists the nearest names.
    """
    modules = dict(model.named_modules())
    if name and name in modules:
        return modules[name]
    near = get_close_matches(name, filter(None, modules), n=3, cutoff=0.5)
    near = near or [child for child, _ in model.named_children() if child != 'data_preprocessor']
    raise SetupError(
        f'The {whose} {type(model).__name__} has no module {name!r}; did you mean {" or ".join(map(repr, near))}?'
    )


def unwrap(model: nn.Module) -> nn.Module:
    """Take the model out of what distributes it.

    Args:
        model (nn.Module): A model, as a runner has it.

    Returns:
        nn.Module: The model itself.
    """
    return model.module if is_model_wrapper(model) else model
