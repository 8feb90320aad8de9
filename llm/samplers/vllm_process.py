"""vLLM beside a run: its environment, and the process of it that draws the shards which a stage lacks.

The process runs llm/samplers/vllm_shards.py. It is sent JSON, a line each: first what it loads, then sample sets with
the shards to draw. It answers with lines of JSON: that it is ready, how many tokens were drawn, which shard is written.
When it is stopped, or ends by itself, the shards that are whole stay.
"""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from llm.distributions import Distribution, SampleSet
from llm.machine import processes
from llm.machine.processes import UsageError, say
from llm.models import loading
from llm.run import Run
from llm.settings.config import REPOSITORY

if TYPE_CHECKING:
    import torch

TO_END_S = 30  # for a process that was asked to end
OF_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def interpreter() -> Path:
    """Return the Python of vLLM's environment; UsageError naming what makes it where there is none."""
    venv = Path(os.environ.get("VLLM_VENV") or REPOSITORY / ".venv-vllm")
    if not os.access(python := venv / "bin" / "python", os.X_OK):
        raise UsageError(f"sampler is vllm, and {python} is not there: run bash scripts/vllm/setup.sh, which makes it")
    return python


class Process:
    """A process of vLLM that has loaded a model. told: the file that its stderr goes to."""

    def __init__(self, running: subprocess.Popen, told: IO[str]):
        self.running, self.told = running, told

    def send(self, message: dict[str, Any]) -> None:
        try:
            print(json.dumps(message), file=self.running.stdin, flush=True)
        except BrokenPipeError:
            self._refuse_end()

    def answer(self) -> dict[str, Any]:
        """Return the next answer; UsageError where the process has ended instead."""
        line = self.running.stdout.readline()
        if not line.endswith("\n"):
            self._refuse_end()
        return json.loads(line)

    def draw(
        self, run: Run, sample_set: SampleSet, shards: list[int], progress: Callable[[int], object]
    ) -> Iterator[int]:
        """Have some shards of a set drawn, and yield each as it is written; progress is called with tokens."""
        if not shards:
            return
        stored, distribution = run.sample_files(sample_set), sample_set.distribution
        files = dict(num_sequences=stored.num_sequences, shard_size=stored.shard_size, bound=stored.bound)
        order = dict(directory=str(stored.directory.absolute()), files=files, shards=shards)
        order |= dict(address=[run.experiment.seed, distribution.path.as_posix(), sample_set.split])
        self.send(order | dict(temperature=distribution.temperature))
        num_left = len(shards)
        while num_left:
            answer = self.answer()
            progress(answer.get("tokens", 0))
            if "shard" in answer:
                yield answer["shard"]
                num_left -= 1

    def end(self) -> None:
        """Ask the process to end, wait until it has, and kill it where it does not."""
        self.running.terminate()
        try:
            self.running.wait(TO_END_S)
        except subprocess.TimeoutExpired:
            self.running.kill()
            self.running.wait()
        for pipe in (self.running.stdin, self.running.stdout):
            with suppress(BrokenPipeError):  # of what was not sent any more
                pipe.close()

    def _refuse_end(self) -> None:
        """Raise UsageError that says how the process has ended: by its own error, or by a signal."""
        code = self.running.wait()
        lines = Path(self.told.name).read_text("utf-8", errors="replace").splitlines()
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        if errors:
            raise UsageError(f"vLLM: {errors[-1]}")
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"has ended with {code}"
        raise UsageError(
            f"the process of vLLM {how}: the shards that are whole are kept; run the same command again to go on"
        )


@contextmanager
def started(run: Run, distribution: Distribution, dtype: "torch.dtype") -> Iterator[Process]:
    """Yield a process of vLLM that has loaded the weights of a distribution, and end it afterwards."""
    experiment, device = run.experiment, processes.state().device
    name = str(dtype).removeprefix("torch.")
    if device.type == "cuda":
        import torch

        torch.cuda.empty_cache()  # which torch keeps of what this process has freed
    loading.refuse_damaged(weights := run.weights(distribution).absolute())
    loaded = dict(model=str(weights), dtype=name, device=device.type, language=asdict(run.language))
    loaded |= dict(max_length=experiment.max_length, at_once=experiment.sampling_batch_size)
    with tempfile.NamedTemporaryFile("w", prefix="vllm-", suffix=".log", encoding="utf-8") as told:
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=told, text=True, encoding="utf-8")
        command = [str(interpreter()), "-m", "llm.samplers.vllm_shards"]
        running = subprocess.Popen(command, env=_environment(device), **pipes)
        process = Process(running, told)
        try:
            process.send(loaded)
            version = process.answer()["ready"]
            say(f"sampling in {name} on {device.type} by vLLM {version}, processes: {processes.count()}")
            yield process
        finally:
            process.end()


def _environment(device: "torch.device") -> dict[str, str]:
    """Return the environment of a process of vLLM: one process, on this one's device, without network."""
    kept = {name: value for name, value in os.environ.items() if name not in OF_LAUNCHERS}
    kept |= {"PYTHONPATH": str(REPOSITORY), "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1"}
    kept |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    if device.type == "cpu":
        kept["TORCHDYNAMO_DISABLE"] = "1"  # with which nothing at all is compiled: that would need a C++ compiler
    if device.type == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        kept["CUDA_VISIBLE_DEVICES"] = visible.split(",")[device.index or 0] if visible else str(device.index or 0)
    return kept
