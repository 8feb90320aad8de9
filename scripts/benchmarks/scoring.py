"""Scoring: ours against padded batches in the order of the data with a log-softmax over the whole vocabulary.

And ours with the exact expectations of stage 4 (llm/expectations.py), against ours without them.

    python -m scripts.benchmarks.scoring
    python -m scripts.benchmarks.scoring --model HuggingFaceTB/SmolLM2-360M --batch_size 64

In one process, in turn, the same float32 model scores the same sequences, of lengths spread evenly from 8 to
max_length, in batches of the same size. Rates are of scored tokens. The default, 2,000 sequences in each of 5 rounds,
takes a night on a laptop; --num_sequences 50 takes some minutes.
"""

from functools import partial

import numpy as np
import torch

from llm import expectations, likelihood
from llm.distributions import Samples
from llm.expectations import Scorer
from llm.machine.processes import run_entry
from llm.machine.progress import bar
from llm.settings import config
from scripts.benchmarks import common
from scripts.benchmarks.common import SHORTEST, interleaved, medians, ratio, spread_lengths, timed


def spread(num: int, max_length: int, vocab_size: int, seed: int = 0) -> Samples:
    """Return random ids, in sequences whose lengths are spread evenly, in random order; the first id is the prompt."""
    rng = np.random.default_rng(seed)
    lengths = spread_lengths(num, max_length, rng)
    return Samples.of([rng.integers(vocab_size, size=n) for n in lengths], 1, np.zeros(num))


def padded(model, samples: Samples, batch_size: int) -> np.ndarray:
    """Return [n] log-likelihoods as one would write it first: log-softmax of a padded batch's logits, a mask, a sum."""
    result = np.empty(len(samples))
    with torch.inference_mode():
        for start in range(0, len(samples), batch_size):
            rows = np.arange(start, min(start + batch_size, len(samples)))
            ids, targets = (t.to(model.device) for t in likelihood.padded_batch(samples, rows))
            attention_mask = torch.arange(ids.shape[1], device=ids.device) < torch.tensor(
                samples.lengths[rows], device=ids.device
            ).unsqueeze(1)
            logits = model(input_ids=ids, attention_mask=attention_mask.long(), use_cache=False).logits[:, :-1]
            log_p = logits.float().log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
            result[rows] = log_p.masked_fill(targets < 0, 0).double().sum(-1).cpu().numpy()
    return result


def with_expectations(model, samples: Samples, batch_size: int) -> np.ndarray:
    """Return [n] log-likelihoods as stage 4 computes them, with the expectations over each next id."""
    scorer = Scorer(model)
    (scores,) = expectations.score(scorer, [scorer], samples, [0], batch_size, lambda total: bar("score", total))
    return scores.log_prob


WAYS = {"ours": likelihood.log_likelihood, "padded": padded, "with expectations": with_expectations}


def prepared(way: str, directory, num: int, max_length: int, batch_size: int):
    """Return one way's work, whose memory is measured in a process of its own."""
    model = common.load(directory, "float32")
    samples = spread(num, max_length, model.config.vocab_size)
    return lambda: WAYS[way](model, samples, batch_size)


def main() -> None:
    command = config.parser(__doc__)
    common.add_model(command)
    command.add_argument("--num_sequences", type=int, default=2000)
    command.add_argument("--max_length", type=int, default=512)
    command.add_argument("--batch_size", type=int, default=16)
    command.add_argument("--num_pairs", type=int, default=5)
    args = command.parse_args()
    directory, language = common.prepared_model(args.model, args.max_length, args.out)
    model = common.load(directory, "float32")
    samples = spread(args.num_sequences, args.max_length, language.vocab_size)
    print(f"{model.num_parameters() / 1e6:.0f}M parameters, {language.vocab_size:,} ids, float32, {model.device}")
    print(f"{len(samples)} sequences of {SHORTEST} to {args.max_length} tokens, batches of {args.batch_size}")
    scores = {}

    def rate_of(way: str) -> float:
        seconds, scores[way] = timed(lambda: WAYS[way](model, samples, args.batch_size))
        return int(samples.num_scored.sum()) / seconds

    def warm_up() -> None:
        few = samples.take(np.arange(min(args.batch_size, len(samples))))
        for score in WAYS.values():
            score(model, few, args.batch_size)

    rates = interleaved({way: partial(rate_of, way) for way in WAYS}, args.num_pairs, warm_up)
    print(medians(rates, "scored tokens/s"))
    print(f"ours over padded: {ratio(rates, 'ours', 'padded')}")
    print(f"with expectations over ours: {ratio(rates, 'with expectations', 'ours')}")
    gaps = [np.abs(scores["ours"] - scores[way]) / samples.num_scored for way in ("padded", "with expectations")]
    print(f"largest difference of a sequence's log-likelihood: {np.max(gaps):.1e} nats per token\n")
    # Of a few sequences: the longest decide the peak, and that all are scored was seen above.
    few = min(64, args.num_sequences)
    print(common.peaks(prepared, WAYS, directory, few, args.max_length, args.batch_size))


if __name__ == "__main__":
    run_entry(main)
