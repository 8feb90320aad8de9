"""Sampling: ours against transformers' generate, and against the model's matrix products alone.

    python -m scripts.benchmarks.sampling
    python -m scripts.benchmarks.sampling --model HuggingFaceTB/SmolLM2-360M --num_sequences 1024 --max_length 512

In one process, in turn, the same model in the same dtype draws the same number of sequences at temperature 1 over its
whole vocabulary. First nothing ends a sequence before max_length; then so many ids are made to end it that the mean
length is about a quarter of that. Rates are of useful tokens: what a finished sequence is padded with does not count.

--identity instead draws the sequences in float32 with 1, 7 and all slots, and counts those that differ.
"""

import numpy as np
import torch

from llm.distributions import Language, Samples, Stream
from llm.machine.processes import run_entry
from llm.sampling import sample
from llm.settings import config
from scripts.benchmarks import common
from scripts.benchmarks.common import interleaved, medians, ratio, timed


def ours(model, language: Language, num: int, max_length: int, batch_size: int | None = None) -> Samples:
    """Return num sequences drawn by llm.sampling."""
    arguments = dict(temperature=1.0, max_length=max_length, batch_size=batch_size or num)
    return sample(model, language, range(num), stream=Stream.of("benchmark"), **arguments)


def generate(model, language: Language, num: int, max_length: int) -> int:
    """Draw num sequences by transformers, no default changing the distribution; return the number of useful tokens."""
    prompt = torch.tensor(language.prompts[0], device=model.device).repeat(num, 1)
    eos = list(language.eos_token_ids)
    ids = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_length=max_length,
        eos_token_id=eos or None,
        pad_token_id=eos[0] if eos else 0,
    )
    drawn = ids[:, prompt.shape[1] :]
    ended = torch.isin(drawn, torch.tensor(eos, device=ids.device)).cumsum(-1)
    return int((ended.roll(1, -1).index_fill(-1, torch.tensor([0], device=ids.device), 0) == 0).sum())


def matrix_products(model, batch_size: int, num_steps: int) -> None:
    """Compute the linear layers of num_steps decoding steps, each on a batch of random rows: none can be avoided."""
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    inputs = {
        size: torch.randn(batch_size, size, dtype=model.dtype, device=model.device)
        for size in {layer.in_features for layer in layers}
    }
    with torch.inference_mode():
        for _ in range(num_steps):
            for layer in layers:
                torch.nn.functional.linear(inputs[layer.in_features], layer.weight, layer.bias)


def ends_for(samples, target: float, vocab_size: int) -> tuple[int, ...]:
    """Return the most frequent ids, so many that the mean length is about the target if they end a sequence."""
    frequent = np.argsort(-np.bincount(samples.ids, minlength=vocab_size), kind="stable")
    for num in range(1, vocab_size):
        is_end = np.isin(samples.ids, frequent[:num])
        lengths = []
        for a, b in zip(samples.offsets[:-1], samples.offsets[1:], strict=True):
            ends = np.flatnonzero(is_end[a + 1 : b])
            lengths.append(ends[0] + 2 if len(ends) else b - a)
        if np.mean(lengths) <= target:
            return tuple(frequent[:num].tolist())
    raise ValueError("no set of ids ends the sequences that early")


def compare(model, language: Language, num: int, max_length: int, num_pairs: int, with_limit: bool) -> None:
    """Print the rates of both ways, and with the limit those of the matrix products alone."""
    num_steps = min(max_length - len(language.prompts[0]), 10)

    def rate_of_ours() -> float:
        seconds, samples = timed(lambda: ours(model, language, num, max_length))
        return int(samples.num_scored.sum()) / seconds

    def rate_of_generate() -> float:
        seconds, tokens = timed(lambda: generate(model, language, num, max_length))
        return tokens / seconds

    def limit() -> float:
        return num * num_steps / timed(lambda: matrix_products(model, num, num_steps))[0]

    ways = {"ours": rate_of_ours, "generate": rate_of_generate} | ({"limit": limit} if with_limit else {})
    rates = interleaved(ways, num_pairs)
    print(medians(rates, "useful tokens/s"))
    print(f"ours over generate: {ratio(rates, 'ours', 'generate')}")
    if with_limit:
        print(f"ours over the matrix products alone: {ratio(rates, 'ours', 'limit')}")


WAYS = {"ours": ours, "generate": generate}


def prepared(way: str, directory, dtype: str, language: Language, num: int, max_length: int):
    """Return one way's work, whose memory is measured in a process of its own."""
    model = common.load(directory, dtype)
    return lambda: WAYS[way](model, language, num, max_length)


def count_differing(model, language: Language, num: int, max_length: int) -> None:
    """Print how many sequences differ with 7 slots and with 1 from those with all slots."""
    whole = ours(model, language, num, max_length)
    for batch_size in (7, 1):
        other = ours(model, language, num, max_length, batch_size)
        differing = sum(not np.array_equal(whole[i], other[i]) for i in range(num))
        print(f"{num} slots against {batch_size}: {differing} of {num} sequences differ", flush=True)


def main() -> None:
    command = config.parser(__doc__)
    common.add_model(command)
    command.add_argument("--num_sequences", type=int, default=256)
    command.add_argument("--max_length", type=int, default=64)
    command.add_argument("--num_pairs", type=int, default=5)
    command.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    command.add_argument("--identity", action="store_true", help="count sequences that depend on the number of slots")
    args = command.parse_args()
    directory, language = common.prepared_model(args.model, args.max_length, args.out)
    size = (args.num_sequences, args.max_length)
    if args.identity:
        return count_differing(common.load(directory, "float32"), language, *size)
    model = common.load(directory, args.dtype)
    print(f"{model.num_parameters() / 1e6:.0f}M parameters, {language.vocab_size:,} ids, {args.dtype}, {model.device}")
    endless = Language(language.vocab_size, language.prompts, ())
    print(f"\n{args.num_sequences} sequences of {args.max_length} tokens")
    compare(model, endless, *size, args.num_pairs, with_limit=True)
    ends = ends_for(ours(model, endless, *size), args.max_length / 4, language.vocab_size)
    early = Language(language.vocab_size, language.prompts, ends)
    mean = ours(model, early, *size).lengths.mean()
    print(f"\n{args.num_sequences} sequences that {len(ends)} of the ids end: {mean:.1f} tokens of {args.max_length}")
    compare(model, early, *size, args.num_pairs, with_limit=False)
    del model
    print(f"\n{common.peaks(prepared, WAYS, directory, args.dtype, endless, *size)}")


if __name__ == "__main__":
    run_entry(main)
