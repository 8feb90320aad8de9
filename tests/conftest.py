"""What the tests share: a command line's result, and language models small enough to enumerate."""

import contextlib
import dataclasses
import functools
import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from xdist.scheduler import LoadScopeScheduling

from llm.distributions import Language, Samples
from llm.machine import processes
from llm.pipeline import SCRIPTS, Work
from llm.run import Run
from llm.settings import config
from llm.settings.config import REPOSITORY
from llm.settings.experiment import Experiment
from llm.store import files, locks
from llm.store.paths import Paths
from llm.store.samples import SampleFiles

PROMPT, EOS = 0, 2
TELLS_OF_RUNS = ("timings.jsonl", "provenance.json")
# Architectures other than the Llama of the profiles, as small.
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
QWEN2 = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
# The session's finished run: a small one with everything, which tests read, and copy before they spoil it.
TINY = ["--profile", "smoke", "--num_train", "120", "--num_validation", "40", "--shard_size", "20"]
TINY += ["--batch_size", "16", "--teacher_epochs", "2", "--student_epochs", "2"]
FINISHED = [*TINY, "--temperatures", "0.8", "1.0", "--num_seeds", "2", "--num_test", "60"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the slow tests too, each of which has a fast twin")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the slow tests, unless all are asked for, or nothing else."""
    slow = [item for item in items if item.get_closest_marker("slow")]
    if not config.getoption("--all") and len(slow) < len(items):
        for item in slow:
            item.add_marker(pytest.mark.skip(reason="slow: bash scripts/test.sh --all runs it"))


class ByFixture(LoadScopeScheduling):
    """Runs the tests of a file on one processor if they share a fixture of its own, the largest files first.

    All other tests go to whichever processor is free. xdist's own groups are no way to say it: with pytest 9.2 it
    makes none (xdist 3.8 writes them where pytest no longer reads a test's name).
    """

    def _split_scope(self, nodeid: str) -> str:
        name = nodeid.split("::")[0]
        return name if shares_a_fixture(REPOSITORY / name) else nodeid


@functools.cache
def shares_a_fixture(path: Path) -> bool:
    return 'scope="module"' in path.read_text(encoding="utf-8")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFixture:
    return ByFixture(config, log)


def run(*command: str, cwd: Path = REPOSITORY, **environment: str) -> subprocess.CompletedProcess:
    """Run a command, by default at the repository's root, with this interpreter first on the PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "VIRTUAL_ENV": sys.prefix, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


def entry(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return run(sys.executable, "-m", module, *arguments, **environment)


WITHOUT_TORCH = """
import sys
from importlib.abc import MetaPathFinder
class Without(MetaPathFinder):
    def find_spec(self, name, *_):
        if name in ("torch", "transformers"):
            raise ImportError(name)
sys.meta_path.insert(0, Without())
"""


def without_torch(code: str) -> subprocess.CompletedProcess:
    """Run Python code where neither torch nor transformers can be imported."""
    return run(sys.executable, "-c", WITHOUT_TORCH + code)


def contents(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a directory, with its time stamp and its bytes, but those that tell of runs."""
    return {
        str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(".lock") and path.name not in TELLS_OF_RUNS
    }


def without_times(root: Path) -> dict[str, object]:
    """The contents of a run but its time stamps and seconds."""
    found = {}
    for name, (_, data) in contents(root).items():
        if name.endswith(("log.jsonl", "training.json")):
            rows = [json.loads(line) for line in (data.splitlines() if name.endswith("l") else [data])]
            found[name] = [{key: row[key] for key in row.keys() - {"seconds", "sha256"}} for row in rows]
        else:
            found[name] = data
    return found


# In a script: a module, and its arguments; variables may be set before it, and a condition stand before these.
STAGE = re.compile(r"^(?:[^#\n]*(?:\|\||&&) )?(?:\w+=\S+ )*stage (\S+)(.*)$", re.MULTILINE)


def within(module: str, *arguments: str) -> str:
    """What an entry prints when it is run in this process, which has torch already; its error, if it ends in one."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(sys, "argv", [module, *arguments])
        importlib.import_module(module).main()
    return printed.getvalue()


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """Leave torch as many threads as it had: numba, which lays out a map, and a benchmark set them for good."""
    before = torch.get_num_threads() if (torch := sys.modules.get("torch")) else None
    yield
    if before is not None:
        torch.set_num_threads(before)


def stages(script: str) -> list[list[str]]:
    """The command lines that a script runs in order, each a module and its own flags."""
    found = STAGE.findall((REPOSITORY / script).read_text())
    return [[module, *rest.replace('"$@"', "").split()] for module, rest in found]


def chain_within(*flags: str) -> dict[str, str]:
    """What the stages of each of the four scripts print, run in order in this process."""
    return {script: "".join(within(*stage, *flags) for stage in stages(script)) for script in SCRIPTS}


def refusal(module: str, *arguments: str) -> str:
    """The line on stderr with which an entry, run in this process, ends with exit code 2."""
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stderr(io.StringIO()) as told,
        pytest.raises(SystemExit) as ended,
    ):
        patch.setattr(processes, "stop_on_signals", lambda: None)
        processes.run_entry(lambda: within(module, *arguments))
    line = told.getvalue()
    assert ended.value.code == 2 and line.startswith("error: ") and line.count("\n") == 1, line
    return line


def run_of(experiment: Experiment, root: Path, language: Language) -> Run:
    """A run whose p* is its language alone: for models that a test makes itself."""
    found = Run(experiment, Paths(root))
    with files.atomic(found.paths.ground_truth) as temporary:
        temporary.mkdir()
        files.write_json(temporary / "distribution.json", dataclasses.asdict(language))
        files.seal(temporary)
    return found


def work_of(run: Run, kind: str, model: str, seed: int | None = 0) -> Work:
    """The first work of a kind with the weights of a model."""
    return next(work for work in run.works(kind) if (work.by.model, work.by.seed) == (model, seed))


@contextlib.contextmanager
def _noting_sockets() -> Iterator[list[str]]:
    """Yield a list of what opens a socket, or asks for an address, within the block."""
    noted, within_block = [], [True]

    def hook(event: str, arguments: tuple) -> None:
        if within_block and event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request"):
            noted.append(f"{event} {arguments}")

    sys.addaudithook(hook)  # for good
    yield noted
    within_block.clear()


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """The session's finished run, and what the stages of each script printed; one process makes it for all.

    "sockets": what of that opened one.
    """
    own = tmp_path_factory.getbasetemp()
    root = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "finished"
    printed = root.with_suffix(".json")
    with locks.one_at_a_time(root.with_suffix(".lock"), "finished"):
        if not printed.is_file():
            with _noting_sockets() as noted:
                told = chain_within(*FINISHED, "--out", str(root))
            printed.write_text(json.dumps(told | {"sockets": " ".join(noted)}), encoding="utf-8")
    return root, json.loads(printed.read_text("utf-8"))


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A copy of the finished run, to be spoiled."""
    return Path(shutil.copytree(finished[0], tmp_path / "finished"))


@pytest.fixture
def smoke() -> Experiment:
    return config.load("smoke")


@pytest.fixture(scope="session")
def language() -> Language:
    """Three ids: the prompt, a letter and the end of the sequence."""
    return Language(vocab_size=3, prompts=((PROMPT,),), eos_token_ids=(EOS,))


def kept(directory: Path, samples: Samples, shard_size: int, vocab_size: int, weights: str) -> SampleFiles:
    """Return a complete set in a directory."""
    stored = SampleFiles(directory, len(samples), shard_size, {"weights": weights})
    for shard, indices in enumerate(stored.ranges):
        stored.write(shard, samples.take(np.array(indices)), vocab_size)
    stored.complete({})
    return stored


def shard_table(path: Path) -> pa.Table:
    """Return a shard as anybody reads it who knows Arrow alone."""
    with path.open("rb") as file:
        return pa.ipc.open_stream(file).read_all()


@pytest.fixture
def record(tmp_path, monkeypatch) -> Path:
    """Make an environment whose vllm is the stand-in, and return the file of what it is asked."""
    for directory in ("site", "venv/bin"):
        (tmp_path / directory).mkdir(parents=True)
    shutil.copyfile(REPOSITORY / "tests" / "llm" / "samplers" / "stand_in_vllm.py", tmp_path / "site" / "vllm.py")
    python = tmp_path / "venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}/site:$PYTHONPATH" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("VLLM_VENV", str(tmp_path / "venv"))
    monkeypatch.setenv("RECORD", str(tmp_path / "record"))
    monkeypatch.setenv("WORLD_SIZE", "1")
    return tmp_path / "record"


def tiny_llama(seed: int, initializer_range: float = 0.6, vocab_size: int = 3, num_layers: int = 2):
    """A random Llama far from uniform, in float32."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    llama = AutoConfig.for_model(
        "llama",
        vocab_size=vocab_size,
        hidden_size=16,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=initializer_range,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return AutoModelForCausalLM.from_config(llama, dtype=torch.float32).eval()


def enumerate_sequences(max_length: int) -> list[tuple[int, ...]]:
    """Every sequence over three ids that starts with the prompt and ends at its first EOS or at max_length."""
    found = []
    for num_generated in range(1, max_length):
        for body in product(range(3), repeat=num_generated):
            early = EOS in body[:-1]
            whole = body[-1] == EOS or num_generated == max_length - 1
            if whole and not early:
                found.append((PROMPT, *body))
    return found


def exact_log_probabilities(model, sequences: list[tuple[int, ...]], temperature: float = 1.0) -> np.ndarray:
    """log p(x ; tau) of each sequence in float64, a forward pass for every prefix: no cache, no batch, no padding."""
    import torch

    following = {}  # {prefix: log p of each id after it}
    with torch.no_grad():
        for prefix in dict.fromkeys(sequence[:t] for sequence in sequences for t in range(1, len(sequence))):
            logits = model(input_ids=torch.tensor([prefix])).logits[0, -1].double()
            following[prefix] = torch.log_softmax(logits / temperature, -1).tolist()
    return np.array([sum(following[each[:t]][each[t]] for t in range(1, len(each))) for each in sequences])
