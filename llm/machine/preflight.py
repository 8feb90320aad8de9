"""Refuse, before work is spent, what would run out of disk or memory on the way, or lacks a package."""

import importlib.util
import math
import os
import shutil
from pathlib import Path

import psutil

from llm.machine.processes import UsageError


def need_writable(directory: Path) -> Path:
    """Return the directory, or the nearest of its parents that exists; UsageError where that cannot be written."""
    existing = next(parent for parent in [directory, *directory.parents] if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UsageError(f"{existing} cannot be written: choose another OUT")
    return existing


def need_disk(directory: Path, num_bytes: int, what: str) -> None:
    """Raise UsageError where the directory's file system cannot be written or has fewer free bytes."""
    free = shutil.disk_usage(need_writable(directory)).free
    if free < num_bytes:
        raise UsageError(f"{what} needs {num_bytes:,} bytes in {directory}, where {free:,} are free: make space there")


def weights_bytes(directory: Path, itemsize: int) -> int:
    """Return the bytes in memory of a saved model's weights, of itemsize bytes each; only headers are read."""
    from safetensors import safe_open

    num_parameters = 0
    for path in directory.glob("*.safetensors"):
        with safe_open(path, "numpy") as tensors:
            num_parameters += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return num_parameters * itemsize


def need_memory(num_bytes: int, what: str) -> None:
    """Raise UsageError where the machine has fewer free bytes of memory."""
    free = psutil.virtual_memory().available
    if free < num_bytes:
        raise UsageError(f"{what} needs {num_bytes:,} bytes of memory, and {free:,} are free")


def need_tracker(name: str) -> None:
    """Raise UsageError where an experiment tracker is wanted and not installed."""
    if name != "none" and importlib.util.find_spec(name) is None:
        raise UsageError(f"tracker {name} is not installed: run pip install {name}")
