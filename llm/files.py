"""Files that are either whole or not there: write beside the target, then rename over it."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic(target: Path) -> Iterator[Path]:
    """A temporary path beside `target`, for a file or a directory, that becomes `target` when the block succeeds.

    After a crash the target is absent or complete. A block that raises leaves nothing behind.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if temporary.is_dir():
            for path in temporary.rglob("*"):
                _sync(path)
            if target.exists():  # a directory cannot be renamed over one that has files
                shutil.rmtree(target)
        _sync(temporary)
        os.replace(temporary, target)
        _sync(target.parent)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole; leave it untouched, time stamp included, where it holds these bytes already."""
    if not (path.is_file() and path.read_bytes() == data):
        with atomic(path) as temporary:
            temporary.write_bytes(data)


def write_json(path: Path, value: dict) -> None:
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path) -> dict | None:
    """The mapping in a JSON file; None where there is no such file, or not a whole one."""
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
