"""What vllm_shards asks of vLLM, over a table instead of a model; a test puts it where `import vllm` finds it.

p(x_t | x_<t) depends on x_(t-1) alone: the model is a Llama without layers, of which this needs no torch. What it is
asked is added to the file RECORD, a line each. KILLED_AT: after so many sequences it kills itself. FAULT: what it does
wrong. LOADS_FOR: so many seconds.
"""

import json
import os
import signal
import sys
import time
from enum import Enum
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from safetensors.numpy import load_file

__version__ = "stand-in"
AT_A_STEP = 3  # sequences that end at a step, the last of those that wait first
sys.modules["vllm.inputs"] = sys.modules["vllm.sampling_params"] = sys.modules[__name__]


def record(**what) -> None:
    with Path(os.environ["RECORD"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(what) + "\n")


class RequestOutputKind(Enum):
    CUMULATIVE = 0
    FINAL_ONLY = 2


class EngineArgs(SimpleNamespace):
    pass


class SamplingParams(SimpleNamespace):
    pass


def tokens_input(prompt_token_ids: list[int]) -> dict:
    return {"type": "token", "prompt_token_ids": prompt_token_ids}


class LLMEngine:
    def __init__(self, arguments: EngineArgs):
        weights = load_file(Path(arguments.model) / "model.safetensors")
        hidden = weights["model.embed_tokens.weight"].astype(float)
        hidden /= np.sqrt((hidden**2).mean(-1, keepdims=True) + 1e-6)
        self.logits = hidden * weights["model.norm.weight"] @ weights["lm_head.weight"].astype(float).T
        self.waiting, self.num_ended = [], 0

    @classmethod
    def from_engine_args(cls, arguments: EngineArgs) -> "LLMEngine":
        print("this is no answer")
        time.sleep(float(os.environ.get("LOADS_FOR", 0)))
        if os.environ.get("FAULT") == "load":
            raise ValueError("no such architecture")
        record(engine=vars(arguments))
        return cls(arguments)

    def add_request(self, request_id: str, prompt: dict, params: SamplingParams) -> None:
        told = vars(params) | {"output_kind": params.output_kind.name}
        record(request=request_id, prompt=prompt["prompt_token_ids"], parameters=told)
        self.waiting.append((request_id, prompt["prompt_token_ids"], params))

    def has_unfinished_requests(self) -> bool:
        return bool(self.waiting)

    def step(self) -> list[SimpleNamespace]:
        ended, self.waiting = self.waiting[: -AT_A_STEP - 1 : -1], self.waiting[:-AT_A_STEP]
        self.num_ended += len(ended)
        if self.num_ended > float(os.environ.get("KILLED_AT", "inf")):
            os.kill(os.getpid(), signal.SIGKILL)
        return [self.drawn(*each) for each in ended]

    def drawn(self, request_id: str, prompt: list[int], params: SamplingParams) -> SimpleNamespace:
        rng, ids, total = np.random.default_rng(params.seed), [], 0.0
        while len(ids) < params.max_tokens and not (ids and ids[-1] in params.stop_token_ids):
            scores = self.logits[[*prompt, *ids][-1]] / params.temperature
            probabilities = np.exp(scores - scores.max())
            probabilities /= probabilities.sum()
            ids.append(int(rng.choice(len(scores), p=probabilities)))
            total += np.log(probabilities[ids[-1]])
        total += {"log_prob": 10, "nan": np.nan}.get(os.environ.get("FAULT"), 0)
        reason = "stop" if ids[-1] in params.stop_token_ids else "length"
        reason = "abort" if os.environ.get("FAULT") == "abort" else reason
        output = SimpleNamespace(token_ids=ids, cumulative_logprob=float(total), finish_reason=reason)
        return SimpleNamespace(request_id=request_id, finished=True, outputs=[output])
