"""Scoring: ours against padded batches in the order of the data with a log-softmax over the whole vocabulary.

    python -m scripts.benchmark_scoring
    python -m scripts.benchmark_scoring --model HuggingFaceTB/SmolLM2-360M --batch_size 64

In one process, in turn, the same float32 model scores the same sequences, of lengths spread evenly from 8 to
max_length, in batches of the same size. Rates are of scored tokens. The default, 2,000 sequences in each of 5 rounds,
takes a night on a laptop; --num_sequences 50 takes some minutes.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch

from llm import config, likelihood
from llm.shards import Samples
from scripts import benchmark
from scripts.benchmark import interleaved, megabytes, peak_memory, ratio, timed

SHORTEST = 8


def spread(num: int, max_length: int, vocab_size: int, seed: int = 0) -> Samples:
    """Random ids, in sequences whose lengths are spread evenly, in random order; the first id is the prompt."""
    rng = np.random.default_rng(seed)
    lengths = rng.permutation(np.linspace(SHORTEST, max_length, num).astype(int))
    return Samples.of([rng.integers(vocab_size, size=n) for n in lengths], 1, np.zeros(num))


def padded(model, samples: Samples, batch_size: int) -> np.ndarray:
    """What one would write first: log-softmax of all logits of a padded batch, a mask, a sum."""
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


WAYS = {"ours": likelihood.log_likelihood, "padded": padded}


def prepared(way: str, directory, num: int, max_length: int, batch_size: int):
    """For the measurement of memory in a process of its own."""
    model = benchmark.load(directory, "float32")
    samples = spread(num, max_length, model.config.vocab_size)
    return lambda: WAYS[way](model, samples, batch_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="as ground_truth in a profile (default: the cpu profile's, all its ids)")
    parser.add_argument(
        "--out", type=Path, default=benchmark.ROOT, help="where the model is kept (default: runs/benchmark)"
    )
    parser.add_argument("--num_sequences", type=int, default=2000)
    parser.add_argument("--max_length", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--num_pairs", type=int, default=5)
    args = parser.parse_args()
    directory, language = benchmark.ground_truth(args.model, args.max_length, args.out)
    model = benchmark.load(directory, "float32")
    samples = spread(args.num_sequences, args.max_length, language.vocab_size)
    tokens = int(samples.num_scored.sum())
    print(f"{model.num_parameters() / 1e6:.0f}M parameters, {language.vocab_size:,} ids, float32, {model.device}")
    print(f"{len(samples)} sequences of {SHORTEST} to {args.max_length} tokens, batches of {args.batch_size}")
    scores = {}

    def rate_of(way):
        seconds, scores[way] = timed(lambda: WAYS[way](model, samples, args.batch_size))
        return tokens / seconds

    def warm_up():
        few = samples.take(np.arange(min(args.batch_size, len(samples))))
        for score in WAYS.values():
            score(model, few, args.batch_size)

    rates = interleaved({way: (lambda way=way: rate_of(way)) for way in WAYS}, args.num_pairs, warm_up)
    print(f"| way | scored tokens/s, median of {args.num_pairs} |\n|---|---|")
    for way, values in rates.items():
        print(f"| {way} | {statistics.median(values):,.0f} |")
    print(f"ours over padded: {ratio(rates, 'ours', 'padded')}")
    gap = np.abs(scores["ours"] - scores["padded"]) / samples.num_scored
    print(f"largest difference of a sequence's log-likelihood: {gap.max():.1e} nats per token")
    print("\npeak memory above the weights")
    # Of the longest sequences alone, which decide the peak; that all are scored was seen above.
    peaks = {
        way: peak_memory(prepared, way, directory, min(64, args.num_sequences), args.max_length, args.batch_size)
        for way in WAYS
    }
    for way, peak in peaks.items():
        print(f"{way}: {megabytes(peak)}")
    print(f"ours of padded: {peaks['ours'] / peaks['padded']:.2f}")


if __name__ == "__main__":
    config.run(main)
