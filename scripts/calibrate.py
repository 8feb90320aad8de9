"""How fast this machine samples, scores and trains the models of an experiment: half a minute of work.

    PROFILE=cpu; source scripts/launch.sh; stage scripts.calibrate

For scripts/plan.py --calibrate, which starts it as the scripts start their stages. Prints JSON: tokens a second by kind
and role, the mean number of generated tokens of p*'s samples, and the seconds that a start and preparing p* take.
"""

import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from llm import config, likelihood, models, processes
from llm.config import Experiment
from llm.models import Language
from llm.paths import DIRECT, TEACHER, Paths
from llm.sampling import Stream, sample
from llm.shards import Samples
from llm.train import train

NUM_STEPS = 12  # of training, of which the first does not count


def rate_of_sampling(model, language: Language, experiment: Experiment) -> tuple[float, Samples]:
    def draw(number: int, max_length: int) -> Samples:
        arguments = dict(temperature=1.0, max_length=max_length, batch_size=experiment.sampling_batch_size)
        return sample(model, language, range(number), stream=Stream.of("calibration"), **arguments)

    draw(2, min(experiment.max_length, max(map(len, language.prompts)) + 2))  # warm-up
    began = time.perf_counter()
    samples = draw(min(experiment.sampling_batch_size, experiment.num_train), experiment.max_length)
    return int(samples.num_scored.sum()) / (time.perf_counter() - began), samples


def rate_of_scoring(model, samples: Samples, experiment: Experiment) -> float:
    part = samples.take(np.arange(min(2 * experiment.scoring_batch_size, len(samples))))
    likelihood.log_likelihood(model, samples.take(np.arange(2)), 2)  # warm-up
    began = time.perf_counter()
    likelihood.log_likelihood(model, part, experiment.scoring_batch_size)
    return int(part.num_scored.sum()) / (time.perf_counter() - began)


def rate_of_training(model, name: str, samples: Samples, experiment: Experiment) -> float:
    rows = np.arange(NUM_STEPS * experiment.batch_size) % len(samples)
    once = dataclasses.replace(experiment, teacher_epochs=1, student_epochs=1, save_steps=10 * NUM_STEPS)
    with tempfile.TemporaryDirectory() as directory:
        where = Paths(Path(directory))
        train(model, samples.take(rows), name, 0, once, where)
        log = [json.loads(line) for line in where.log(name, 0).read_text().splitlines()]
    return sum(row["tokens"] for row in log[1:]) / (log[-1]["seconds"] - log[0]["seconds"])


def measure(experiment: Experiment, where: Paths) -> dict:
    device = processes.state().device
    result = {"start_s": time.time() - psutil.Process().create_time(), "rates": {}}
    began = time.perf_counter()
    language = models.prepare_ground_truth(experiment, where)
    result["prepare_s"] = time.perf_counter() - began

    def note(kind: str, role: str, rate: float) -> None:
        print(f"{kind} {role}: {rate:,.0f} tokens/s", file=sys.stderr, flush=True)
        result["rates"][f"{kind} {role}"] = rate

    def model_of(role: str, dtype: str):
        dtype = models.native_dtype(dtype, device)
        if role == "ground_truth":
            return models.load(where.ground_truth, dtype, device)
        return models.build(getattr(experiment, role), role, language, 0).to(device, dtype).eval()

    for role in ("ground_truth", "teacher", "student"):
        rate, samples = rate_of_sampling(model_of(role, experiment.sampling_dtype), language, experiment)
        note("sample", role, rate)
        if role == "ground_truth":
            drawn, result["mean_length"] = samples, float(samples.num_scored.mean())
        note("score", role, rate_of_scoring(model_of(role, "float32"), drawn, experiment))
        if role != "ground_truth":
            name = TEACHER if role == "teacher" else DIRECT
            note("train", role, rate_of_training(model_of(role, "float32"), name, drawn, experiment))
    return result


def main() -> None:
    experiment, _, _ = config.parse(__doc__)
    with tempfile.TemporaryDirectory() as directory:
        print(json.dumps(measure(experiment, Paths(Path(directory)))))


if __name__ == "__main__":
    config.run(main)
