"""The first NVIDIA GPU through CUDA, without torch: by PyCUDA where it is installed, else by the CUDA runtime library.

A Jetson has neither PyCUDA nor cuda-python, but always the library.
"""

from __future__ import annotations

import importlib
from functools import cache

from toolkit.errors import DeviceUnreachable, MissingDependency
from toolkit.machine.cuda.protocol import Cuda


@cache
def runtime() -> Cuda:
    """CUDA on this machine. MissingDependency if there is no way to call it."""
    try:
        importlib.import_module("pycuda.driver")
    except ImportError:  # not installed, or there is no NVIDIA driver, which the library reports better
        from toolkit.machine.cuda.libcudart import LibCudart

        return LibCudart.find()
    from toolkit.machine.cuda.pycuda import PyCuda

    return PyCuda()


def architecture() -> str:
    """Architecture of the GPU, such as "sm_89"; DeviceUnreachable if there is none."""
    return runtime().architecture()


def sm_count() -> int:
    """Number of streaming multiprocessors of the GPU; DeviceUnreachable if there is none."""
    return runtime().sm_count()


def architecture_or_none() -> str | None:
    """`architecture`, or None without a usable GPU."""
    try:
        return architecture()
    except (DeviceUnreachable, MissingDependency):
        return None
