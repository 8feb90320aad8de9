"""How fast this machine samples, scores and trains the models of an experiment: half a minute of work.

    PROFILE=cpu; source scripts/launch.sh; stage scripts.costs.calibrate

For scripts/costs/plan.py --calibrate, which starts it as the scripts start their stages. Prints the JSON of `measure`.
"""

import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil
from tqdm import tqdm

from llm import likelihood
from llm.distributions import DIRECT, TEACHER, Distribution, Language, Samples, SampleSet
from llm.machine import processes
from llm.models import ground_truth, loading
from llm.pipeline import TRAIN, TRUTH, Work
from llm.run import Run
from llm.samplers.sample_sets import SAMPLERS
from llm.settings import config
from llm.settings.experiment import Experiment
from llm.store import files
from llm.store.paths import Paths
from llm.store.resume import TrainingFiles
from llm.train import train

NUM_STEPS = 12  # of training, of which the first does not count


def rate_of_sampling(model, language: Language, experiment: Experiment) -> tuple[float, Samples, float]:
    """Return generated tokens a second, the samples of one batch, and the seconds in which the sampler has started.

    By the sampler of the stages, in a run of which the model is p*.
    """
    number = min(experiment.sampling_batch_size, experiment.num_train)
    with tempfile.TemporaryDirectory() as directory:
        run = Run(experiment.with_values(shard_size=number), Paths(Path(directory)))
        model.save_pretrained(run.paths.ground_truth)
        files.write_json(run.paths.ground_truth / "distribution.json", asdict(language))
        files.seal(run.paths.ground_truth)
        drawn, began = SampleSet(TRUTH, "train", 2 * number + 2), time.perf_counter()
        with SAMPLERS[experiment.sampler](run, drawn, model.dtype) as sampler:
            start = time.perf_counter() - began
            for shard in (2, 1):  # of two sequences, as a warm-up; not the first, whose log-probabilities are checked
                began = time.perf_counter()
                list(sampler(drawn, {shard: None}, tqdm(disable=True)))
            seconds = time.perf_counter() - began
        samples = run.sample_files(drawn).read_shard(1)
    return int(samples.num_scored.sum()) / seconds, samples, start


def rate_of_scoring(model, samples: Samples, experiment: Experiment) -> float:
    """Return scored tokens a second, of two batches."""
    part = samples.take(np.arange(min(2 * experiment.scoring_batch_size, len(samples))))
    likelihood.log_likelihood(model, samples.take(np.arange(2)), 2)  # warm-up
    began = time.perf_counter()
    likelihood.log_likelihood(model, part, experiment.scoring_batch_size)
    return int(part.num_scored.sum()) / (time.perf_counter() - began)


def rate_of_training(model, name: Distribution, samples: Samples, experiment: Experiment) -> float:
    """Return trained tokens a second, of NUM_STEPS optimiser steps but the first."""
    rows = np.arange(NUM_STEPS * experiment.batch_size) % len(samples)
    with tempfile.TemporaryDirectory() as directory:
        run = Run(experiment.with_values(save_steps=10 * NUM_STEPS), Paths(Path(directory)))
        work = Work(TRAIN, "train", name, SampleSet(TRUTH, "train", len(rows)))
        train(run, work, model, samples.take(rows))
        lines = TrainingFiles(run.paths.checkpoints(name)).log.read_text("utf-8").splitlines()
    log = [json.loads(line) for line in lines]
    return sum(row["tokens"] for row in log[1:]) / (log[-1]["seconds"] - log[0]["seconds"])


def measure(run: Run) -> dict:
    """Return seconds, mean_length in tokens, and rates, {"KIND ROLE": tokens a second}.

    start_s: of a program.  prepare_s: of p*.  sampler_s: of the sampler's start with p*.
    """
    device, e = processes.state().device, run.experiment
    result = {"start_s": time.time() - psutil.Process().create_time(), "rates": {}}
    began = time.perf_counter()
    language = ground_truth.prepare(run)
    result["prepare_s"] = time.perf_counter() - began

    def note(kind: str, name: Distribution, rate: float) -> None:
        print(f"{kind} {name.role}: {rate:,.0f} tokens/s", file=sys.stderr, flush=True)
        result["rates"][f"{kind} {name.role}"] = rate

    def model_of(name: Distribution, dtype: str):
        dtype = loading.native_dtype(dtype, device)
        if name == TRUTH:
            return loading.load(run.paths.ground_truth, dtype, device)
        return loading.build(getattr(e, name.role), name.role, language, 0).to(device, dtype).eval()

    for name in (TRUTH, Distribution(TEACHER, 0), Distribution(DIRECT, 0)):
        rate, samples, start = rate_of_sampling(model_of(name, e.sampling_dtype), language, e)
        note("sample", name, rate)
        if name == TRUTH:
            drawn, result["mean_length"], result["sampler_s"] = samples, float(samples.num_scored.mean()), start
        note("score", name, rate_of_scoring(model_of(name, "float32"), drawn, e))
        if name != TRUTH:
            note("train", name, rate_of_training(model_of(name, "float32"), name, drawn, e))
    return result


def main() -> None:
    experiment, _, _ = config.parse(__doc__)
    with tempfile.TemporaryDirectory() as directory:
        print(json.dumps(measure(Run(experiment, Paths(Path(directory))))))


if __name__ == "__main__":
    processes.run_entry(main)
