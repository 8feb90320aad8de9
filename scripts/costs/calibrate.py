"""How fast this machine samples, scores and trains the models of an experiment: half a minute of work.

    PROFILE=cpu; source scripts/launch.sh; stage scripts.costs.calibrate

For scripts/costs/plan.py --calibrate, which starts it as the scripts start their stages. Prints the JSON of `measure`.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from llm import config, ground_truth, likelihood, models, processes
from llm.distributions import DIRECT, TEACHER, Distribution, Language, Samples, SampleSet
from llm.experiment import Experiment
from llm.pipeline import TRAIN, TRUTH, Work
from llm.randomness import Stream
from llm.run import Run
from llm.sampling import sample
from llm.store.paths import Paths
from llm.store.resume import TrainingFiles
from llm.train import train

NUM_STEPS = 12  # of training, of which the first does not count


def rate_of_sampling(model, language: Language, experiment: Experiment) -> tuple[float, Samples]:
    """Return generated tokens a second, and the samples of one batch."""

    def draw(number: int, max_length: int) -> Samples:
        arguments = dict(temperature=1.0, max_length=max_length, batch_size=experiment.sampling_batch_size)
        return sample(model, language, range(number), stream=Stream.of("calibration"), **arguments)

    draw(2, min(experiment.max_length, max(map(len, language.prompts)) + 2))  # warm-up
    began = time.perf_counter()
    samples = draw(min(experiment.sampling_batch_size, experiment.num_train), experiment.max_length)
    return int(samples.num_scored.sum()) / (time.perf_counter() - began), samples


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
    """Return start_s and prepare_s in seconds, mean_length in tokens, and rates, {"KIND ROLE": tokens a second}."""
    device, e = processes.state().device, run.experiment
    result = {"start_s": time.time() - psutil.Process().create_time(), "rates": {}}
    began = time.perf_counter()
    language = ground_truth.prepare(run)
    result["prepare_s"] = time.perf_counter() - began

    def note(kind: str, name: Distribution, rate: float) -> None:
        print(f"{kind} {name.role}: {rate:,.0f} tokens/s", file=sys.stderr, flush=True)
        result["rates"][f"{kind} {name.role}"] = rate

    def model_of(name: Distribution, dtype: str):
        dtype = models.native_dtype(dtype, device)
        if name == TRUTH:
            return models.load(run.paths.ground_truth, dtype, device)
        return models.build(getattr(e, name.role), name.role, language, 0).to(device, dtype).eval()

    for name in (TRUTH, Distribution(TEACHER, 0), Distribution(DIRECT, 0)):
        rate, samples = rate_of_sampling(model_of(name, e.sampling_dtype), language, e)
        note("sample", name, rate)
        if name == TRUTH:
            drawn, result["mean_length"] = samples, float(samples.num_scored.mean())
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
