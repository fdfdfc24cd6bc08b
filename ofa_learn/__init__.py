__version__ = "0.1.0"

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .training import distill as distill  # said twice: a type checker then counts it as exported

_HOMES = {'distill': 'training'}  # imported when first asked for: `import ofa_learn` stays light


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from importlib import import_module

    return getattr(import_module(f'.{_HOMES[name]}', __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
