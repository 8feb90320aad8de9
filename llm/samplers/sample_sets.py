"""Sample sets: which of their shards are missing, drawn by one of two samplers, checked, and marked complete.

`sampler: own` draws in this process (llm/sampling.py), `sampler: vllm` in one of vLLM's (llm/samplers/vllm_shards.py).
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from llm.distributions import Samples, SampleSet, Stream
from llm.likelihood import log_likelihood, refuse_gaps
from llm.machine import preflight, processes
from llm.machine.processes import UsageError, say
from llm.models import loading
from llm.pipeline import Work
from llm.run import Run
from llm.samplers import vllm_process
from llm.sampling import FEWEST, sample
from llm.settings.parts import Part
from llm.store.samples import SampleFiles, most_bytes

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

NUM_CHECKED = 32  # sequences of each set whose log-probabilities are computed in both ways before the set is kept
LOOK_AGAIN_S = 0.5  # for the shards of the other processes

# Draws the shards that are keys and writes them; yields each when it is there. The values are their first sequences,
# where a smaller set has left them. The bar counts drawn tokens.
Sampler = Callable[[SampleSet, dict[int, Samples | None], tqdm], Iterator[int]]


def describe(sample_set: SampleSet, manifest: dict) -> str:
    """Return a complete set's name, its number of sequences, and their mean number of generated tokens."""
    mean = manifest["num_scored_tokens"] / manifest["num_sequences"]
    return f"{sample_set}: {manifest['num_sequences']:,} sequences, {mean:.1f} generated tokens each"


def check(run: Run, works: Iterable[Work]) -> None:
    """Raise UsageError where vLLM is to draw sets among these works, and its environment is missing."""
    if run.experiment.sampler == "vllm" and not all(run.is_marked(work) for work in works if work.kind == "sample"):
        vllm_process.interpreter()


def complete(run: Run, sets: list[SampleSet], part: Part) -> None:
    """Draw the shards that some sets of one model lack, a part of them; the model is loaded only if there are any.

    A set whose last shard has arrived is verified and marked complete, whichever part or process that is.
    """
    experiment, language = run.experiment, run.language
    absent = [each for each in sets if run.sample_files(each).manifest() is None]
    num_bytes = sum(most_bytes(each.num_sequences, experiment.max_length, language.vocab_size) for each in absent)
    preflight.need_disk(run.paths.root, num_bytes, "sampling")  # before there is a list of that many shards
    shards = part.of([(each, shard) for each in sets for shard in range(len(run.sample_files(each).ranges))])
    todo = []
    for each in sets:
        if manifest := run.sample_files(each).verified():
            say(f"complete: {describe(each, manifest)}")
        else:
            todo.append(each)
    if not todo:
        return
    dtype = loading.native_dtype(experiment.sampling_dtype, processes.state().device)
    with SAMPLERS[experiment.sampler](run, todo[0], dtype) as sampler:
        for each in todo:
            draw_shards(run, each, [shard for owner, shard in shards if owner == each], sampler)
            if manifest := run.sample_files(each).manifest():
                say(f"made: {describe(each, manifest)}")
            else:
                say(f"made: this part of {each}")


def draw_shards(run: Run, sample_set: SampleSet, shards: list[int], sampler: Sampler) -> None:
    """Draw these shards of a set where they are missing or damaged, shared among the processes of a run.

    A shard that holds the first of its sequences, as the last one of a smaller set does, keeps them. In the end the
    set is marked complete if all of its shards are there, those of other parts too.
    """
    stored, state = run.sample_files(sample_set), processes.state()
    processes.main_only(lambda: _remove_damaged(stored, shards))
    missing = {
        shard: stored.beginning(shard) for shard in stored.missing(shards[state.process_index :: state.num_processes])
    }
    num_steps = run.experiment.max_length - min(map(len, run.language.prompts))
    most = {shard: (len(stored.ranges[shard]) - len(kept or ())) * num_steps for shard, kept in missing.items()}
    with run.progress("sample", sample_set.distribution, str(sample_set), sum(most.values())) as bar:
        before = bar.n
        for shard in sampler(sample_set, missing, bar):
            bar.total -= most[shard] - (bar.n - before)  # the rest was not needed
            before = bar.n
    while not all(stored.path(shard).exists() for shard in shards):
        time.sleep(LOOK_AGAIN_S)
    processes.main_only(lambda: _mark_complete(run, sample_set, stored, is_checked=0 in missing))


# ---------------------------------------------------------------------------------------------- the two samplers


@contextmanager
def _own(run: Run, first: SampleSet, dtype: "torch.dtype") -> Iterator[Sampler]:
    """Yield the sampler of this process, with the model of a set loaded."""
    from llm.engine import decoding

    state = processes.state()
    model = loading.load(run.weights(first.distribution), dtype, state.device)
    with decoding.decoder(model, 1, run.experiment.max_length) as steps:
        slow = "" if isinstance(steps, decoding.CachedDecoder) else ", each id from the whole sequence, without a cache"
    name = str(dtype).removeprefix("torch.")
    say(f"sampling in {name} on {state.device.type}, processes: {state.num_processes}{slow}")
    yield partial(draw_here, run, model)


def draw_here(
    run: Run, model: "PreTrainedModel", sample_set: SampleSet, missing: dict[int, Samples | None], bar: tqdm
) -> Iterator[int]:
    """Draw shards with a model in this process, as a `Sampler` does."""
    from llm.engine.decoding import fitting_batch_size
    from llm.machine.memory import BatchSize

    stored, language, experiment = run.sample_files(sample_set), run.language, run.experiment
    stream = Stream.of(experiment.seed, sample_set.distribution.path.as_posix(), sample_set.split)
    at_most = fitting_batch_size(model, experiment.max_length, experiment.sampling_batch_size)
    at_once = BatchSize(at_most, "drawing", least=FEWEST)
    arguments = dict(stream=stream, temperature=sample_set.distribution.temperature, max_length=experiment.max_length)
    for shard, kept in missing.items():
        indices, before = stored.ranges[shard][len(kept or ()) :], bar.n
        draw_at_once = partial(sample, model, language, indices, **arguments, progress=bar.update)
        samples = at_once.fit(
            lambda size, draw=draw_at_once: draw(batch_size=size), lambda before=before: bar.update(before - bar.n)
        )
        if shard == 0 and not kept:
            _check_log_probs(run, sample_set, samples, model)
        stored.write(shard, Samples.joined([*([kept] if kept else []), samples]), language.vocab_size)
        yield shard


@contextmanager
def _vllm(run: Run, first: SampleSet, dtype: "torch.dtype") -> Iterator[Sampler]:
    """Yield the sampler of a process of vLLM, with the model of a set loaded there."""
    with vllm_process.started(run, first.distribution, dtype) as process:
        yield partial(_draw_there, run, process)


def _draw_there(
    run: Run, process: vllm_process.Process, sample_set: SampleSet, missing: dict[int, Samples | None], bar: tqdm
) -> Iterator[int]:
    """Have vLLM's process draw and write shards, as a `Sampler` does; none stays where the first one is wrong."""
    stored = run.sample_files(sample_set)
    for shard in process.draw(run, sample_set, list(missing), bar.update):
        if shard == 0:
            try:
                _check_log_probs(run, sample_set, stored.read_shard(0))
            except UsageError:
                process.end()
                for each in missing:
                    stored.path(each).unlink(missing_ok=True)
                raise
        yield shard


SAMPLERS = {"own": _own, "vllm": _vllm}

# ----------------------------------------------------------------------------------------- checked, and complete


def _check_log_probs(run: Run, sample_set: SampleSet, samples: Samples, model: "PreTrainedModel | None" = None) -> None:
    """Score the first sequences of a set in float32; UsageError where that is not what was computed at their draw.

    model: that drew them, where it is in this process.
    """
    import torch

    device = processes.state().device
    first = samples.take(np.arange(min(NUM_CHECKED, len(samples))))
    dtype = model.dtype if model is not None else loading.native_dtype(run.experiment.sampling_dtype, device)
    if model is None or dtype != torch.float32:
        model = loading.load(run.weights(sample_set.distribution), torch.float32, device)
    temperature = sample_set.distribution.temperature
    scores = log_likelihood(model, first, run.experiment.scoring_batch_size, temperature=temperature)
    refuse_gaps(str(sample_set), first, scores, str(dtype).removeprefix("torch."), temperature)


def _remove_damaged(stored: SampleFiles, shards: list[int]) -> None:
    """Remove those of some shards that are not as the manifest has them, and a manifest that is not true any more."""
    damaged = stored.damaged(shards)
    for shard in damaged:
        say(f"{stored.path(shard)} is missing or damaged: making it again")
        stored.path(shard).unlink(missing_ok=True)
    if damaged or stored.manifest() is None:  # else another part has just completed the set
        stored.manifest_path.unlink(missing_ok=True)


def _mark_complete(run: Run, sample_set: SampleSet, stored: SampleFiles, is_checked: bool) -> None:
    """Mark a set complete if all of its shards are there. is_checked: its first sequences were, as they were drawn.

    vLLM's process may have written these just before a run was killed, or for another part: they are checked again.
    """
    everything = range(len(stored.ranges))
    if all(stored.path(shard).exists() for shard in everything) and not stored.missing(everything):
        if run.experiment.sampler == "vllm" and not is_checked:
            _check_log_probs(run, sample_set, stored.read_shard(0))
        work = next(w for w in run.works("sample") if w.data == sample_set)
        stored.complete(work.made_with(run.experiment))
