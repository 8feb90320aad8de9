"""Evaluate distributions of a run: their test samples, what they and p* make of these, and the results of all."""

from llm.distributions import Distribution
from llm.machine import processes
from llm.machine.processes import say
from llm.pipeline import TRUTH
from llm.results import scores, summary
from llm.run import Run
from llm.samplers import sample_sets
from llm.settings.parts import Part


def evaluate(run: Run, distributions: list[Distribution]) -> None:
    """Make the samples and scores of some distributions that are missing, p*'s of its own test set among them."""
    held = scores.Models(run)
    for each in distributions:
        if each != TRUTH:
            sample_sets.complete(run, [run.test_set(each)], Part())
            scores.complete(held, run.test_set(each), [each, TRUTH])
    scores.complete(held, run.test_set(TRUTH), distributions)


def complete(run: Run, distributions: list[Distribution]) -> None:
    """Evaluate this part of some distributions, and write the results of the run once all are."""
    evaluate(run, run.part.of(distributions))
    if processes.is_main():
        if scores.are_complete(run):
            summary.write(run)
            say(summary.report(run))
        else:
            say(f"part {run.part} is done; the last one makes the table")
