"""Make a vision transformer structurally smaller, ship it, and prove that it is faster and still right.

    import toolkit

    dense = toolkit.load("deit_tiny_patch16_224", classes=names)
    slim = toolkit.prune(dense, batches, budget="macs=0.5")
    slim.save("slim")
    exported = toolkit.export(slim, "onnx", "slim-onnx")
    print(toolkit.bench({"dense": dense, "slim": slim}))

`toolkit.api` documents these functions; it is imported when the first of them is used.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from toolkit.api import bench, export, finetune, load, parity, prune

__all__ = ["bench", "export", "finetune", "load", "parity", "prune"]
__version__ = "0.1.0"


def _function(name: str) -> Callable[..., Any]:
    return cast("Callable[..., Any]", getattr(importlib.import_module("toolkit.api"), name))


def __getattr__(name: str) -> Any:
    if name in __all__:
        return _function(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _CallablePackage(ModuleType):
    """A subpackage with the name of a function of the API, such as `toolkit.export`: a call calls the function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _function(self.__name__.rpartition(".")[2])(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(_function(self.__name__.rpartition(".")[2]))


class _Toolkit(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        """Python sets a subpackage as an attribute of its package when it imports it, in place of the function."""
        if name in __all__ and isinstance(value, ModuleType):
            value.__class__ = _CallablePackage
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Toolkit
