"""Files that are either whole or not there: write beside the target, then rename over it.

A directory that was written at once carries a seal, the hashes of its files, against which it is verified when read.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from llm.machine.processes import UsageError

HOST = socket.gethostname().replace(".", "_")
LEFTOVER = re.compile(r"\..+\.(?P<host>[^.]+)\.(?P<pid>\d+)\.half-written")  # the names that `atomic` gives
CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # what file systems answer that do not offer it


def _sync(path: Path) -> None:
    """Have the system write a file or a directory to the disk, where the file system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


@contextmanager
def atomic(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`, for a file or a directory, that becomes `target` when the block succeeds.

    After a crash the target is absent or complete. A block that raises leaves nothing behind. UsageError where the
    target is a directory with files that are not ours, which would be lost; OSError with the path and the bytes written
    so far where the disk is full, whatever the library that was writing makes of it.
    """
    refuse_foreign(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{HOST}.{os.getpid()}.half-written")
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
    except Exception as error:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            written = f"disk full after {size(temporary):,} bytes of it"
            raise OSError(errno.ENOSPC, written, str(target)) from error
        raise
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


@contextmanager
def appending(path: Path) -> Iterator[TextIO]:
    """Yield a text file to add lines to. OSError with the path and its bytes where the disk is full."""
    try:
        with path.open("a", encoding="utf-8") as file:
            yield file
    except OSError as error:
        if error.errno == errno.ENOSPC and error.filename is None:
            raise OSError(errno.ENOSPC, f"disk full after {size(path):,} bytes of it", str(path)) from error
        raise


def size(path: Path) -> int:
    """Return the bytes of a file, or of all files below a directory; 0 where there is nothing."""
    parts = path.rglob("*") if path.is_dir() else [path]
    return sum(part.stat().st_size for part in parts if part.is_file())


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # sends nothing
    except OSError as error:
        return error.errno == errno.EPERM  # another user's
    return True


def remove_leftovers(root: Path, within: tuple[str, ...], alone: bool) -> None:
    """Remove what killed processes left of `atomic` in root, and below those of its directories that are ours.

    alone: no other process writes there. If others may, only what a process of this host left that is no more.
    """
    for directory, directories, names in os.walk(root):  # which passes over what others remove meanwhile
        if Path(directory) == root:
            directories[:] = [name for name in directories if name in within or LEFTOVER.fullmatch(name)]
        for name in [*directories, *names]:
            made, path = LEFTOVER.fullmatch(name), Path(directory, name)
            if made is None or not (alone or (made["host"] == HOST and not _is_alive(int(made["pid"])))):
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole; leave it untouched, time stamp included, where it holds these bytes already."""
    if not (path.is_file() and path.read_bytes() == data):
        with atomic(path) as temporary:
            temporary.write_bytes(data)


def write_json(path: Path, value: dict | list) -> None:
    """Write a value as JSON, a line a member."""
    write_bytes(path, _encoded(value))


def _encoded(value: dict | list) -> bytes:
    """Return a value as JSON; ValueError where a number in it is not finite, which JSON has no word for."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> dict | None:
    """Return the mapping in a JSON file; None where there is no such file, or not a whole one."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_record(path: Path, value: dict) -> None:
    """Write a JSON file that carries the hash of its own name and content."""
    write_json(path, value | {"sha256": _digest(path, value)})


def read_record(path: Path, **expected) -> dict | None:
    """Return what `write_record` wrote; None where it is missing, any of it has changed, or it lacks an expected value.

    expected: what it is bound to, which a record of something else, or of an earlier state, has not.
    """
    value = read_json(path)
    if value is None:
        return None
    content = {key: each for key, each in value.items() if key != "sha256"}
    if path.read_bytes() != _encoded(content | {"sha256": _digest(path, content)}):
        return None
    return content if all(value.get(key) == each for key, each in expected.items()) else None


def seal_hash(directory: Path) -> str | None:
    """Return the hash of a directory's seal, by which others are bound to its content; None where it has none."""
    path = directory / SEAL
    return sha256(path) if path.is_file() else None


def _digest(path: Path, value: dict) -> str:
    return hashlib.sha256(json.dumps([path.name, value]).encode()).hexdigest()


def sha256(path: Path) -> str:
    """Return the hash of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


SEAL = "sha256.json"


def seal(directory: Path) -> None:
    """Record the hash of every file of a directory in it, as the last thing that is written there."""
    names = sorted(path.name for path in directory.iterdir())
    write_json(directory / SEAL, {name: sha256(directory / name) for name in names})


# What transformers and this program write into a directory that is sealed.
SEALED_NAMES = re.compile(r".*\.(json|safetensors|model|jinja|txt)")


def foreign_file(directory: Path) -> Path | None:
    """Return a file of a directory, if there is one, that is not in its seal.

    Where the seal is missing, or names a file that is not there, and so may be damaged: one not of a sealed kind.
    """
    if not directory.is_dir():
        return None
    present, sealed = sorted(directory.iterdir()), read_json(directory / SEAL)
    is_whole = sealed is not None and sealed.keys() <= {path.name for path in present}
    ours = {*sealed, SEAL}.__contains__ if is_whole else SEALED_NAMES.fullmatch
    return next((path for path in present if path.is_dir() or not ours(path.name)), None)


def refuse_foreign(directory: Path) -> None:
    """Raise UsageError where a sealed directory holds a file that is not ours, and would be lost if it is replaced."""
    if foreign := foreign_file(directory):
        raise UsageError(f"{foreign} is no file of this program, which would replace {directory}: move it away")


def broken_seal(directory: Path) -> str | None:
    """Return the first file of a sealed directory that is missing, damaged or foreign; None where all is as sealed."""
    sealed = read_json(directory / SEAL)
    if sealed is None:
        return SEAL
    present = {path.name for path in directory.iterdir()} - {SEAL}
    if different := present ^ sealed.keys():
        return min(different)
    return next((name for name, digest in sealed.items() if sha256(directory / name) != digest), None)
