"""Tell whether vLLM draws the distribution that the own sampler draws, and how fast.

    python -m scripts.vllm.check                  # some minutes on 2 cores that do nothing else
    python -m scripts.vllm.check --only exact     # or beside

Start it again to go on. Tables are written beside this file, and printed.

    exact.csv    a random Llama of 8 ids, 3 of them drawn: the counts of all sequences that there are against their
                 probabilities, which plain transformers computes in float64, by a chi-square test at each tau. The
                 rule: vLLM draws from them if no p value, adjusted for their number (Holm 1979), is below 0.05
    same.csv     the p* of the cpu profile: share of sequences that end, drawn tokens and log p a sequence, vLLM's less
                 ours, with 95 % intervals
    speed.csv    drawn tokens a second on the same p*, in rounds of 1,000 sequences, ours and vLLM's in turn; loading
                 a model is left out
"""

import json
import os
import platform
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from llm.distributions import Language, SampleSet
from llm.intervals import adjusted
from llm.machine.processes import UsageError, run_entry, say
from llm.models import ground_truth, loading
from llm.pipeline import SECOND, TRUTH
from llm.results.table import markdown
from llm.run import Run
from llm.samplers import sample_sets
from llm.settings import config
from llm.settings.config import REPOSITORY
from llm.settings.parts import Part
from llm.store import files
from llm.store.paths import Paths

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HERE = Path(__file__).parent
SAMPLERS = ("own", "vllm")
NUM_EXACT = 20000  # sequences at each tau
TAUS = (0.5, 1.0, 2.0)
TINY = {"model_type": "llama", "vocab_size": 8, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY |= {"num_key_value_heads": 1, "intermediate_size": 64, "max_position_embeddings": 64, "initializer_range": 0.3}
TINY |= {"tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 1}
LEVEL = 0.05
LEAST_EXPECTED = 5  # of a cell of the chi-square test; sequences of less are one cell together
NUM_ROUNDS, A_ROUND = 5, 1000


def run_of(root: Path, profile: str, **fields) -> Run:
    """Return a run whose p* is kept."""
    found = Run(config.load(profile, **fields), Paths(root))
    with found.writing():
        ground_truth.keep(found)
    return found


def draw(run: Run, sample_set: SampleSet, part: Part) -> None:
    """Draw what is not there yet of a part of a set."""
    with run.writing():
        sample_sets.complete(run, [sample_set], part)


# ------------------------------------------------------------------------------------------------------ exact


def every_sequence(language: Language, max_length: int) -> list[tuple[int, ...]]:
    """Return all sequences after the first prompt: up to their first end, or to max_length."""
    (prompt,), found = language.prompts, []
    for num in range(1, max_length - len(prompt) + 1):
        for ids in product(range(language.vocab_size), repeat=num):
            ended = ids[-1] in language.eos_token_ids or len(prompt) + num == max_length
            if ended and not set(ids[:-1]) & set(language.eos_token_ids):
                found.append((*prompt, *ids))
    return found


def exact_log_probs(model: "PreTrainedModel", sequences: list[tuple[int, ...]], num_given: int, tau: float):
    """Return [n] float64: log p(x ; tau) of each, a forward pass of plain transformers for every beginning."""
    import torch

    of_beginning: dict[tuple[int, ...], torch.Tensor] = {}
    found = np.zeros(len(sequences))
    with torch.inference_mode():
        for row, sequence in enumerate(sequences):
            for place in range(num_given, len(sequence)):
                beginning = sequence[:place]
                if beginning not in of_beginning:
                    logits = model(input_ids=torch.tensor([beginning])).logits[0, -1].double()
                    of_beginning[beginning] = torch.log_softmax(logits / tau, -1)
                found[row] += of_beginning[beginning][sequence[place]].item()
    return found


def exact(root: Path) -> dict[str, pd.DataFrame]:
    """Return a table with a row for each tau: the chi-square test, and how far a recorded log p is from the exact."""
    import torch

    fields = dict(ground_truth=TINY, prompt=[0], max_length=4, temperatures=TAUS, num_train=NUM_EXACT)
    fields |= dict(students_of_truth=True, shard_size=NUM_EXACT, sampler="vllm", seed=1)
    run = run_of(root / "exact", "smoke", **fields)
    model = loading.load(run.paths.ground_truth, torch.float32, torch.device("cpu")).double()
    every, rows = every_sequence(run.language, run.experiment.max_length), []
    places = {sequence: place for place, sequence in enumerate(every)}
    for tau in TAUS:
        draw(run, sample_set := SampleSet(TRUTH.at(tau), SECOND, NUM_EXACT), Part())
        samples = run.samples(sample_set)
        log_probs = exact_log_probs(model, every, 1, tau)
        which = [places[tuple(samples[i].tolist())] for i in range(len(samples))]
        counts = np.bincount(which, minlength=len(every))
        expected = len(samples) * np.exp(log_probs)
        common = expected >= LEAST_EXPECTED
        counts, expected = (np.append(each[common], each[~common].sum()) for each in (counts, expected))
        test = stats.chisquare(counts, expected * counts.sum() / expected.sum())
        row = dict(tau=tau, sequences=len(samples), possible=len(every), cells=len(counts))
        row |= dict(chi_square=test.statistic, p_value=test.pvalue)
        rows.append(row | dict(largest_gap=np.abs(samples.log_prob - log_probs[which]).max()))
    found = pd.DataFrame(rows)
    found["draws_from_them"] = np.array(adjusted(found["p_value"].tolist())) >= LEVEL
    return {"exact": found}


# ----------------------------------------------------------------------------------------------------- beside


def beside(root: Path) -> dict[str, pd.DataFrame]:
    """Return the tables of both samplers on the p* of the cpu profile, a round of each in turn."""
    fields = dict(num_test=NUM_ROUNDS * A_ROUND, shard_size=A_ROUND)
    runs = {name: run_of(root / name, "cpu", sampler=name, **fields) for name in SAMPLERS}
    for number in range(1, NUM_ROUNDS + 1):
        for run in runs.values():
            draw(run, run.test_set(TRUTH), Part(number, NUM_ROUNDS))
    return {"same": same(runs), "speed": speed(runs)}


def same(runs: dict[str, Run]) -> pd.DataFrame:
    """Return a row for each quantity: its mean by both samplers, and the difference with a 95 % interval (Welch)."""
    values = {}
    for name, run in runs.items():
        samples = run.samples(run.test_set(TRUTH))
        ends = samples.stopped(run.language.eos_token_ids).astype(float)
        values[name] = {"share that ends": ends, "drawn tokens": samples.num_scored, "log p": samples.log_prob}
    rows = []
    for quantity, ours in values["own"].items():
        theirs = values["vllm"][quantity]
        test = stats.ttest_ind(theirs, ours, equal_var=False)
        low, high = test.confidence_interval(0.95)
        row = dict(quantity=quantity, sequences=len(ours), own=ours.mean(), vllm=theirs.mean())
        rows.append(row | dict(difference=theirs.mean() - ours.mean(), low=low, high=high, p_value=test.pvalue))
    return pd.DataFrame(rows)


def speed(runs: dict[str, Run]) -> pd.DataFrame:
    """Return a row for each round: the tokens a second of both samplers, and vLLM's over ours.

    UsageError where a round was interrupted, so that its time is not known.
    """
    rates = {}
    for name, run in runs.items():
        rows = [json.loads(line) for line in run.paths.timings.read_text("utf-8").splitlines()]
        rates[name] = [row["tokens"] / row["seconds"] for row in rows if row["kind"] == "sample" and row["tokens"]]
        if len(rates[name]) != NUM_ROUNDS:
            raise UsageError(f"{run.paths.root} lacks the time of a round that was interrupted: remove it")
    found = pd.DataFrame(rates).rename_axis("round").reset_index()
    found["ratio"] = found["vllm"] / found["own"]
    threads = os.environ.get("OMP_NUM_THREADS") or os.cpu_count()
    return found.assign(threads=threads, machine=platform.machine())


PARTS = {"exact": exact, "beside": beside}


def main() -> None:
    parser = config.parser(__doc__)
    default = REPOSITORY / "runs" / "vllm"
    parser.add_argument("--root", type=Path, default=default, help="what is drawn is kept there (default: runs/vllm)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="some parts alone")
    args = parser.parse_args()
    for part in args.only:
        for name, table in PARTS[part](args.root).items():
            content = table.to_csv(index=False, float_format="%.6g")
            files.write_bytes(HERE / f"{name}.csv", content.encode())
            header, *rows = (line.split(",") for line in content.splitlines())
            say(markdown(header, rows))


if __name__ == "__main__":
    run_entry(main)
