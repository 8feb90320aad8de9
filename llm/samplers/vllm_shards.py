"""Draw shards of sample sets with vLLM: `sampler: vllm`. It runs in vLLM's environment.

llm/samplers/vllm_process.py starts it.

    p(x_t | x_<t ; tau) = softmax(logits_t / tau)        over the whole vocabulary, as in llm/sampling.py

No top-k, no top-p, no min-p, no penalty; the generation config that comes with a model is not read. A sequence ends at
p*'s own ends, which stay as its last id, or at max_length. Ids go in and ids come out: there is no text between.

What differs from `sampler: own`:

- Other uniforms. The seed of a request is of (experiment seed, distribution, split, sequence index), so a shard that is
  made again is the same requests; but vLLM makes its noise (float64) of it in its own way. So the sequences are others,
  of the same distribution.
- Bytes may depend on the batch: what is computed together is rounded together. A shard that is made again may differ,
  and then what was made from its set is made again too.
- log_prob is vLLM's log-probability of each drawn id after the temperature, in float32, summed in float64.
- tau is from 0.01 to 2, and the model one of those that vLLM has.

The prefixes that a student draws while it learns come from `own` in any case.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm.distributions import Language, Samples, derive_seed
from llm.machine.libraries import told
from llm.machine.processes import UsageError, run_entry
from llm.store.samples import SampleFiles

if TYPE_CHECKING:
    from vllm import LLMEngine, SamplingParams

# Of a GPU's memory. The rest is for the process that started this one: models that it scores with, and the check of the
# first sequences in float32.
SHARE_OF_MEMORY = 0.6
TOKENS_AT_ONCE = 8192  # of prompts, and of sequences a token each
CACHE_ON_CPU = 2**31  # bytes of keys and values; sequences that find no room wait


def load(wanted: dict[str, Any]) -> tuple["LLMEngine", str]:
    """Return an engine with a model, and vLLM's version. On a CPU nothing is compiled, which would take a minute."""
    import vllm

    on_cpu = wanted["device"] == "cpu"
    memory = {"kv_cache_memory_bytes": CACHE_ON_CPU} if on_cpu else {"gpu_memory_utilization": SHARE_OF_MEMORY}
    arguments = vllm.EngineArgs(
        model=wanted["model"],
        dtype=wanted["dtype"],
        max_model_len=wanted["max_length"],
        max_num_seqs=wanted["at_once"],
        max_num_batched_tokens=max(wanted["at_once"], TOKENS_AT_ONCE),
        skip_tokenizer_init=True,
        generation_config="vllm",
        logprobs_mode="processed_logprobs",
        use_fp64_gumbel=True,
        enforce_eager=on_cpu,
        disable_log_stats=True,
        **memory,
    )
    return vllm.LLMEngine.from_engine_args(arguments), vllm.__version__


def parameters(language: Language, max_tokens: int, temperature: float, seed: int) -> "SamplingParams":
    """Return what vLLM is told of one sequence: every restriction is off, and its ends are p*'s own."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=temperature,
        top_p=1.0,
        top_k=0,
        min_p=0.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        repetition_penalty=1.0,
        seed=seed,
        ignore_eos=True,  # of the model's config
        stop_token_ids=list(language.eos_token_ids),
        max_tokens=max_tokens,
        logprobs=0,  # of the drawn id alone
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def draw(
    engine: "LLMEngine", language: Language, order: dict[str, Any], indices: range, max_length: int, progress: Callable
) -> Samples:
    """Return the sequences with these indices. progress is called with the tokens of those that have ended."""
    from vllm.inputs import tokens_input

    prompts = [language.prompts[index % len(language.prompts)] for index in indices]
    for index, prompt in zip(indices, prompts, strict=True):
        seed = derive_seed("vllm", *order["address"], index)
        wanted = parameters(language, max_length - len(prompt), order["temperature"], seed)
        engine.add_request(str(index), tokens_input(list(prompt)), wanted)
    found = {}
    while engine.has_unfinished_requests():
        ended = {int(output.request_id): output.outputs[0] for output in engine.step() if output.finished}
        if ended:
            progress(sum(len(each.token_ids) for each in ended.values()))
        found |= ended
    sequences, log_probs = [], []
    for index, prompt in zip(indices, prompts, strict=True):
        made = found[index]
        if made.finish_reason not in ("stop", "length"):
            raise UsageError(f"sequence {index} has ended with {made.finish_reason!r}, which is no end of a sequence")
        if not np.isfinite(made.cumulative_logprob):
            raise UsageError(f"sequence {index} has a log-probability that is not finite, so its logits are not")
        sequences.append([*prompt, *made.token_ids])
        log_probs.append(made.cumulative_logprob)
    return Samples.of(sequences, [len(prompt) for prompt in prompts], log_probs)


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer

    def tell(**answer: Any) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    wanted = json.loads(sys.stdin.readline())
    fields = wanted["language"]
    language = Language(fields["vocab_size"], tuple(map(tuple, fields["prompts"])), tuple(fields["eos_token_ids"]))
    with told(f"the model in {wanted['model']} cannot be loaded"):
        engine, version = load(wanted)
    tell(ready=version)
    for line in sys.stdin:
        order = json.loads(line)
        stored = SampleFiles(Path(order["directory"]), **order["files"])
        for shard in order["shards"]:
            kept = stored.beginning(shard)
            indices = stored.ranges[shard][len(kept or ()) :]
            samples = draw(engine, language, order, indices, wanted["max_length"], lambda num: tell(tokens=num))
            stored.write(shard, Samples.joined([*([kept] if kept else []), samples]), language.vocab_size)
            tell(shard=shard)


if __name__ == "__main__":
    run_entry(main)
