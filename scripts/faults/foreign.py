"""What somebody brings is not what it seems: models that are none, and an environment with settings of its own.

Each fault yields (where, what is wrong or "") for every try.
"""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from llm.settings import config
from scripts.faults.reference import FLAGS, STAGES, Entry, Reference

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def _rewrite(change, directory: Path) -> None:
    """Change the tensors of a checkpoint."""
    from safetensors.torch import load_file, save_file

    path = directory / "model.safetensors"
    save_file(change({name: value.clone() for name, value in load_file(path).items()}), path, {"format": "pt"})


def _configure(fields: dict, directory: Path) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | fields), encoding="utf-8")


def _poison(tensors: dict) -> dict:
    tensors["model.norm.weight"][0] = float("nan")
    return tensors


HEAD = "lm_head.weight"
MODELS = {  # what is done to the directory of a good p*
    "prefixed tensors": partial(_rewrite, lambda t: {f"_orig_mod.{name}": value for name, value in t.items()}),
    "no head": partial(_rewrite, lambda t: {name: value for name, value in t.items() if name != HEAD}),
    "a tensor more": partial(_rewrite, lambda t: t | {"model.extra.weight": t[HEAD].clone()}),
    "a head of fewer ids": partial(_rewrite, lambda t: t | {HEAD: t[HEAD][:-1].clone()}),
    "a NaN weight": partial(_rewrite, _poison),
    "fewer layers declared": partial(_configure, {"num_hidden_layers": 1}),
    "heads that do not divide": partial(_configure, {"num_key_value_heads": 3}),
    "quantised": partial(_configure, {"quantization_config": {"quant_method": "gptq", "bits": 4}}),
    "an unknown architecture": partial(_configure, {"model_type": "nothing"}),
    "a Git LFS pointer": lambda directory: (directory / "model.safetensors").write_text(POINTER, encoding="utf-8"),
    "cut weights": lambda directory: os.truncate(directory / "model.safetensors", 1000),
    "an adapter": lambda directory: (directory / "adapter_config.json").write_text("{}", encoding="utf-8"),
    "pickled weights": lambda directory: (directory / "model.safetensors").rename(directory / "pytorch_model.bin"),
}


def model(reference: Reference, tries: int, chance: random.Random) -> Iterator[tuple[str, str]]:
    """A p* that is not what its directory says: one line and exit code 2, before anything is sampled."""
    good, brought, out = (reference.scratch / name for name in ("undisturbed/ground_truth", "brought", "run"))
    for name in MODELS if tries >= len(MODELS) else chance.sample(sorted(MODELS), tries):
        shutil.rmtree(brought, ignore_errors=True)
        shutil.copytree(good, brought)
        MODELS[name](brought)
        shutil.rmtree(out, ignore_errors=True)
        code, output = Entry(out, "generate_data", flags=("--ground_truth", str(brought))).end()
        told = [line for line in output.splitlines() if line.startswith("error: ground_truth")]
        fine = code == 2 and len(told) == 1 and "Traceback" not in output and not list(out.rglob("shard-*"))
        yield name, "" if fine else f"exit code {code}: {output[-300:]}"


ENVIRONMENT = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_DYNAMO_BACKEND": "eager",
    "LC_ALL": "C",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONUTF8": "0",
    "PYTHONIOENCODING": "ascii",
    "PYTHONHASHSEED": "7",
    "MPLBACKEND": "svg",
    "HOME": "/dev/null",  # no cache can be written
    "HF_HOME": "/dev/null/hf",
    "MPLCONFIGDIR": "/dev/null/matplotlib",
    "OMP_NUM_THREADS": "1",
}


def environment(reference: Reference, tries: int, chance: random.Random) -> Iterator[tuple[str, str]]:
    """Settings of other programs, a poor locale and no cache: the same bytes as without them."""
    for stage in STAGES if tries >= len(STAGES) else chance.sample(sorted(STAGES), tries):
        module, *arguments = STAGES[stage]
        root = reference.fresh(stage)
        command = [sys.executable, "-m", f"llm.{module}", "--out", str(root), *FLAGS, *arguments]
        variables = os.environ | ENVIRONMENT
        done = subprocess.run(command, cwd=config.REPOSITORY, env=variables, capture_output=True, text=True)
        wrong = f"exit code {done.returncode}: {done.stderr[-300:]}" if done.returncode else ""
        yield stage, wrong or reference.differing(root, stage)
