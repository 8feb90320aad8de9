"""Refuse, before work is spent, what would run out of disk or memory on the way."""

import math
import os
import shutil
from pathlib import Path

import psutil

from llm import shards
from llm.config import UsageError

PER_SEQUENCE = 24  # bytes beside the ids: index, length of the prompt, log-probability, list offset


def sample_bytes(num_sequences: int, max_length: int, vocab_size: int) -> int:
    """Bytes on disk of a sample set, at most: parquet of ids in the smallest unsigned type, uncompressed."""
    return num_sequences * (max_length * shards.smallest_unsigned(vocab_size).itemsize + PER_SEQUENCE)


def need_writable(directory: Path) -> Path:
    """The directory, or the nearest of its parents that exists; UsageError where that cannot be written."""
    existing = next(parent for parent in [directory, *directory.parents] if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UsageError(f"{existing} cannot be written: choose another OUT")
    return existing


def need_disk(directory: Path, num_bytes: int, what: str) -> None:
    """UsageError where the directory's file system cannot be written or has fewer free bytes."""
    free = shutil.disk_usage(need_writable(directory)).free
    if free < num_bytes:
        raise UsageError(f"{what} needs {num_bytes:,} bytes in {directory}, where {free:,} are free: make space there")


def weights_bytes(directory: Path, itemsize: int) -> int:
    """Bytes in memory of a saved model's weights, of itemsize bytes each; only the headers of its files are read."""
    from safetensors import safe_open

    num_parameters = 0
    for path in directory.glob("*.safetensors"):
        with safe_open(path, "numpy") as tensors:
            num_parameters += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return num_parameters * itemsize


def need_memory(num_bytes: int, what: str) -> None:
    """UsageError where the machine has fewer free bytes of memory."""
    free = psutil.virtual_memory().available
    if free < num_bytes:
        raise UsageError(f"{what} needs {num_bytes:,} bytes of memory, and {free:,} are free")
