"""Training the students: one after another on all threads, against several side by side with a share of them each.

    python -m scripts.benchmarks.side_by_side
    python -m scripts.benchmarks.side_by_side --profile cpu --out runs/cpu --jobs 2 --num_pairs 3 --student_epochs 1

Reads a run in which everything that the students need is complete: D, the teacher and its samples. Each time is of
scripts/launch.sh's stage, its start included, in a directory of its own, which sees the run's data and is removed
again; the run is left as it is. The two ways take turns.
"""

import os
import shutil
import statistics
import subprocess
import tempfile
from functools import partial
from importlib import import_module
from pathlib import Path

import torch

from llm.distributions import TEACHER, Distribution
from llm.machine.processes import UsageError, run_entry
from llm.run import Run, open_run
from llm.settings import config
from scripts.benchmarks.common import interleaved, ratio, timed

STAGE = "source scripts/launch.sh; stage llm.train --models students"


def link_inputs(run: Run, scratch: Path) -> None:
    """Make a run's directory that has, as links, what the training of the students reads: it writes to none of it."""
    teachers = [run.paths.checkpoints(Distribution(TEACHER, seed)) for seed in range(run.experiment.num_seeds)]
    for path in (run.paths.ground_truth, run.paths.root / "samples", *teachers):
        link = scratch / path.relative_to(run.paths.root)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    shutil.copy(run.paths.config, scratch)


def seconds_of(run: Run, jobs: int) -> float:
    """Return the seconds that the stage takes as so many jobs; UsageError where it fails."""
    with tempfile.TemporaryDirectory() as directory:
        scratch, profile = Path(directory, "run"), Path(directory, "profile.yaml")
        link_inputs(run, scratch)
        profile.write_text(config.render(run.experiment), encoding="utf-8")
        settings = {"PROFILE": str(profile), "OUT": str(scratch), "NPROC": "1", "JOBS": str(jobs)}
        settings["OMP_NUM_THREADS"] = str(torch.get_num_threads())
        arguments = dict(cwd=config.REPOSITORY, env=os.environ | settings, capture_output=True, text=True)
        seconds, done = timed(lambda: subprocess.run(["bash", "-c", STAGE], **arguments))
        if done.returncode:
            raise UsageError(f"the stage failed: {done.stderr.strip().splitlines()[-1]}")
    return seconds


def main() -> None:
    jobs = dict(type=int, default=2, help="how many side by side (default: 2)")
    num_pairs = dict(type=int, default=3, help="rounds, of each way once (default: 3)")
    run, args = open_run(__doc__, in_parts=False, jobs=jobs, num_pairs=num_pairs)
    if args.jobs < 1 or args.num_pairs < 1:
        raise UsageError("jobs and num_pairs must be at least 1")
    works = [work for work in run.works("train") if work.by.role == "student"]
    run.need_samples(work.data for work in works)
    print(f"{len(works)} students, {torch.get_num_threads()} threads, {args.jobs} jobs")
    if args.dry_run:
        return
    ways = {"one after another": partial(seconds_of, run, 1), "side by side": partial(seconds_of, run, args.jobs)}
    seconds = interleaved(ways, args.num_pairs, warm_up=partial(import_module, "llm.engine.training"))
    for way, values in seconds.items():
        each = ", ".join(f"{value:.1f}" for value in values)
        print(f"{way}: {each} s, median {statistics.median(values):.1f} s")
    print(f"one after another over side by side: {ratio(seconds, *ways)}")


if __name__ == "__main__":
    run_entry(main)
