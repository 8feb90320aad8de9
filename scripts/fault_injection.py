"""Break the pipeline on purpose, and see whether a plain rerun gives what an undisturbed run gives.

    python -m scripts.fault_injection                   # everything, 50 tries a stage: about an hour on 2 cores
    python -m scripts.fault_injection --tries 2         # in some minutes
    python -m scripts.fault_injection --only kill disk

On a small version of the smoke profile, every entry is run once undisturbed. Then, from the directory as it was before
that entry, it is disturbed, run again, and its artefacts are compared by hash. Times in log.jsonl and training.json are
left out of the comparison, since no two runs take the same. Prints a table of faults, tries and survivals; exit code 1
where one did not survive. Full disks are small tmpfs mounts, for which one must be root.
"""

import argparse
import hashlib
import importlib
import json
import multiprocessing
import multiprocessing.connection
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers  # noqa: F401  (once here rather than in every process that is forked)
from transformers import LlamaForCausalLM  # noqa: F401

from llm import config, processes
from llm.config import REPOSITORY

FLAGS = ["--profile", "smoke", "--num_train", "400", "--num_validation", "60", "--num_test", "60", "--shard_size", "80"]
FLAGS += ["--teacher_epochs", "2", "--student_epochs", "2", "--temperatures", "0.8", "1.0", "--save_steps", "5"]
FLAGS += ["--num_bootstrap", "100"]
STAGES = {  # in the order of the four scripts
    "generate_data": ["generate_data"],
    "train teacher": ["train", "--models", "teacher"],
    "select teacher": ["eval_perplexity", "--models", "teacher"],
    "sample teacher": ["generate_data"],
    "train students": ["train", "--models", "students"],
    "eval_perplexity": ["eval_perplexity"],
    "eval_precision_and_recall": ["eval_precision_and_recall"],
}
NOT_COMPARED = (".lock", ".claims", "timings.jsonl")
FORK = multiprocessing.get_context("fork")


# ------------------------------------------------------------------------------------------- running an entry


def start(
    root: Path, stage: str, disturb: Callable[[], None] = lambda: None, flags: list[str] | None = None
) -> multiprocessing.Process:
    """An entry in a process of its own, which calls `disturb` first; its output is in <root>.out."""
    module, *arguments = STAGES[stage]

    def child() -> None:
        output = os.open(f"{root}.out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.argv = [module, "--out", str(root), *FLAGS, *arguments, *(flags or [])]
        entry = importlib.import_module(f"llm.{module}").main
        disturb()
        config.run(entry)

    process = FORK.Process(target=child)
    process.start()
    return process


def finish(root: Path, stage: str, disturb: Callable[[], None] = lambda: None) -> tuple[int, str]:
    """An entry from start to end: its exit code and its output."""
    process = start(root, stage, disturb)
    process.join()
    return process.exitcode, Path(f"{root}.out").read_text(errors="replace")


def timeless(path: Path) -> bytes:
    """The bytes of a file, without what times are in it."""
    data = path.read_bytes()
    if path.name == "log.jsonl":
        rows = [json.loads(line) for line in data.splitlines()]
        return json.dumps([{key: row[key] for key in row if key != "seconds"} for row in rows]).encode()
    if path.name == "training.json":
        record = json.loads(data)
        return json.dumps({key: record[key] for key in record if key not in ("seconds", "sha256")}).encode()
    return data


def hashes(root: Path) -> dict[str, str]:
    """The sha256 of every artefact; a temporary file or a state left over is one too many."""
    files = [path for path in root.rglob("*") if path.is_file() and path.name not in NOT_COMPARED]
    return {str(path.relative_to(root)): hashlib.sha256(timeless(path)).hexdigest() for path in files}


@dataclass
class Reference:
    """The directory before and after each stage of an undisturbed run, and the seconds that the stage took."""

    scratch: Path
    before: dict[str, Path] = field(default_factory=dict)
    after: dict[str, dict[str, str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def make(cls, scratch: Path) -> "Reference":
        reference, root = cls(scratch), scratch / "undisturbed"
        root.mkdir()
        for number, stage in enumerate(STAGES):
            reference.before[stage] = Path(shutil.copytree(root, scratch / f"before-{number}"))
            began = time.monotonic()
            code, output = finish(root, stage)
            if code != 0:
                raise SystemExit(f"undisturbed, {stage} ends with exit code {code}:\n{output}")
            reference.seconds[stage] = time.monotonic() - began
            reference.after[stage] = hashes(root)
        return reference

    def fresh(self, stage: str) -> Path:
        """A directory as it was before the stage."""
        root = self.scratch / "disturbed"
        shutil.rmtree(root, ignore_errors=True)
        return Path(shutil.copytree(self.before[stage], root))

    def recovers(self, root: Path, stage: str) -> str:
        """Run the stage again: what is wrong with its end, or nothing."""
        code, output = finish(root, stage)
        if code != 0:
            return f"rerun ended with exit code {code}: {output[-300:]}"
        return self.differing(root, stage)

    def differing(self, root: Path, stage: str) -> str:
        """Which artefacts are not those of the undisturbed run, or nothing."""
        found = hashes(root)
        differing = sorted(
            key for key in found.keys() | self.after[stage].keys() if found.get(key) != self.after[stage].get(key)
        )
        return f"differing: {', '.join(differing[:4])}" if differing else ""


# ----------------------------------------------------------------------------------------------------- faults
# Each yields (stage, what is wrong or "") for every try.


def kept_work(root: Path) -> dict[Path, int]:
    """Shards of complete bytes, by their time stamp: a rerun must not make them again."""
    return {path: path.stat().st_mtime_ns for path in root.rglob("shard-*.parquet")}


def after_kill(reference: Reference, root: Path, stage: str) -> str:
    """Whether a rerun recovers, and redoes no shard and no training step that had been saved."""
    shards = kept_work(root)
    states = sorted(root.glob("checkpoints/*/seed0/state-*"), key=lambda path: int(path.name.split("-")[1]))
    unfinished = [path for path in states if not (path.parent / "training.json").is_file()]
    if wrong := reference.recovers(root, stage):
        return wrong
    if any(path.stat().st_mtime_ns != stamp for path, stamp in shards.items()):
        return "a shard that was complete has been made again"
    output = Path(f"{root}.out").read_text()
    if unfinished and f"going on from {unfinished[-1]}" not in output:
        return f"did not go on from {unfinished[-1]}"
    return ""


def kill(reference: Reference, tries: int, chance: random.Random) -> Iterator[tuple[str, str]]:
    """SIGKILL at a random moment."""
    for stage in STAGES:
        for _ in range(tries):
            root = reference.fresh(stage)
            process = start(root, stage)
            time.sleep(chance.uniform(0, reference.seconds[stage]))
            process.kill()
            process.join()
            yield stage, after_kill(reference, root, stage)


def failpoint(reference: Reference, tries: int, chance: random.Random) -> Iterator[tuple[str, str]]:
    """SIGKILL just before an fsync or a rename: between write, fsync, rename, fsync of the directory and manifest."""
    calls = FORK.Value("i", 0)

    def dying_at(number: int | None) -> Callable[[], None]:
        def patch() -> None:
            calls.value = 0
            for name in ("fsync", "replace"):
                real = getattr(os, name)

                def counted(*arguments, real=real):
                    if calls.value == number:
                        os.kill(os.getpid(), signal.SIGKILL)
                    calls.value += 1
                    return real(*arguments)

                setattr(os, name, counted)

        return patch

    for stage in STAGES:
        finish(reference.fresh(stage), stage, dying_at(None))
        total = calls.value
        points = range(total) if total <= tries else sorted(chance.sample(range(total), tries))
        for point in points:
            root = reference.fresh(stage)
            finish(root, stage, dying_at(point))
            yield stage, after_kill(reference, root, stage)


def stop(reference: Reference, tries: int, chance: random.Random) -> Iterator[tuple[str, str]]:
    """SIGTERM and SIGINT at a random moment: one line on how to go on, the signal's exit code, no traceback."""
    for stage in STAGES:
        for number in range(tries):
            root = reference.fresh(stage)
            ready = FORK.Event()
            process = start(root, stage, lambda ready=ready: (processes.stop_on_signals(), ready.set()))
            ready.wait()  # before it has handlers, a signal is the interpreter's
            time.sleep(chance.uniform(0.05, reference.seconds[stage]))
            sent = (signal.SIGTERM, signal.SIGINT)[number % 2]
            os.kill(process.pid, sent)
            began = time.monotonic()
            process.join()
            output = Path(f"{root}.out").read_text()
            if process.exitcode not in (0, 128 + sent):
                yield stage, f"exit code {process.exitcode}: {output[-300:]}"
            elif process.exitcode and ("run the same command again" not in output or "Traceback" in output):
                yield stage, f"said {output[-300:]}"
            elif time.monotonic() - began > 10:
                yield stage, "took more than 10 s to stop"
            else:
                yield stage, after_kill(reference, root, stage)


def share(reference: Reference, tries: int, chance: random.Random) -> Iterator[tuple[str, str]]:
    """SIGKILL for one of three runs that share a stage: the others end as if it had not been."""
    for stage in ("generate_data", "sample teacher"):
        for _ in range(tries):
            root = reference.fresh(stage)
            names = [root, *(alias(root, name) for name in ("second", "third"))]
            workers = [start(name, stage, flags=["--share"]) for name in names]
            time.sleep(chance.uniform(0, reference.seconds[stage]))
            workers[0].kill()
            for worker in workers:
                worker.join()
            codes = [worker.exitcode for worker in workers[1:]]
            outputs = [Path(f"{name}.out").read_text() for name in names]
            if codes != [0, 0]:
                yield stage, f"exit codes {codes}: {outputs}"
            else:
                yield stage, reference.differing(root, stage)


def disk(reference: Reference, tries: int, chance: random.Random) -> Iterator[tuple[str, str]]:
    """A disk that is full on the way: an exit code, the path and the bytes; and after space is made, the same end."""
    mount = reference.scratch / "small"  # the whole of a run; its output lies beside, where there is space
    mount.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mount], capture_output=True).returncode:
        print("disk: not tried, a small tmpfs cannot be mounted here (it needs root)", file=sys.stderr)
        return
    subprocess.run(["umount", mount], check=True)
    for number, stage in enumerate(STAGES):
        following = reference.scratch / f"before-{number + 1}"
        bytes_before, bytes_after = (
            disk_bytes(each)
            for each in (
                reference.before[stage],
                following if following.is_dir() else reference.scratch / "undisturbed",
            )
        )
        num_full, attempts = 0, 0
        while num_full < min(tries, 10) and (attempts := attempts + 1) <= 40:
            free = int(chance.uniform(0, max(bytes_after - bytes_before, 4096)))
            size = bytes_before + free // 4096 * 4096 + 4096  # a page for its root
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", mount], check=True)
            try:
                shutil.copytree(reference.before[stage], mount, dirs_exist_ok=True)
                code, output = finish(mount, stage)
                if not code:
                    continue  # the disk was not full after all
                num_full += 1
                if "Traceback" in output or str(mount) not in output or " bytes " not in output:
                    yield stage, f"said {output[-400:]}"
                    continue
                subprocess.run(["mount", "-o", "remount,size=64m", mount], check=True)
                yield stage, after_kill(reference, mount, stage)
            finally:
                subprocess.run(["umount", mount], check=True)


def disk_bytes(root: Path) -> int:
    """Bytes that a tree takes on a tmpfs, which gives out whole pages."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in root.rglob("*") if path.is_file())


DAMAGED = [  # a file, a sibling to swap it with, and the stages whose rerun must mend it
    ("ground_truth/model.safetensors", None),
    ("ground_truth/config.json", None),
    ("ground_truth/distribution.json", None),
    ("samples/ground_truth/tau1.00/train/shard-00001.parquet", "shard-00002.parquet"),
    ("samples/ground_truth/tau1.00/train/manifest.json", "../test/manifest.json"),
    ("samples/teacher/tau0.80/seed0/train/shard-00000.parquet", "../../../tau1.00/seed0/train/shard-00000.parquet"),
    ("checkpoints/teacher/seed0/epoch-1/model.safetensors", "../epoch-2/model.safetensors"),
    ("checkpoints/teacher/seed0/epoch-2/config.json", "generation_config.json"),
    ("checkpoints/student_direct/seed0/epoch-2/sha256.json", "../epoch-1/sha256.json"),
    ("checkpoints/student_direct/seed0/training.json", "selection.json"),
    ("checkpoints/student_direct/seed0/selection.json", "../../teacher/seed0/selection.json"),
    ("scores/student_direct/tau1.00/seed0/test/by_ground_truth.json", "by_student_direct_seed0.json"),
    (
        "scores/student_direct/tau1.00/seed0/test/embeddings.npy",
        "../../../../teacher/tau1.00/seed0/test/embeddings.npy",
    ),
]


def damage(path: Path, sibling: str | None, number: int, chance: random.Random) -> None:
    """Truncate, flip a byte, delete or swap."""
    data = bytearray(path.read_bytes())
    ways = ["flip", "truncate", "flip", "delete", *(["swap"] if sibling else [])]
    way = ways[number % len(ways)]
    place = chance.randrange(len(data))
    if way == "flip":
        data[place] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
    elif way == "truncate":
        path.write_bytes(data[:place])
    elif way == "delete":
        path.unlink()
    else:
        other = path.parent / sibling
        path.write_bytes(other.read_bytes())
        other.write_bytes(data)


def corrupt(reference: Reference, tries: int, chance: random.Random) -> Iterator[tuple[str, str]]:
    """A damaged artefact of a finished run: the scripts, run in order, end as if it had not been."""
    last = list(STAGES)[-1]
    for name, sibling in DAMAGED:
        for number in range(min(tries, 20)):
            root = reference.scratch / "disturbed"
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(reference.scratch / "undisturbed", root)
            damage(root / name, sibling, number, chance)
            wrong = ""
            for stage in STAGES:
                code, output = finish(root, stage)
                if code:
                    wrong = f"{stage} ended with exit code {code}: {output[-300:]}"
                    break
            yield name, wrong or reference.differing(root, last)


def state(reference: Reference, tries: int, chance: random.Random) -> Iterator[tuple[str, str]]:
    """A damaged state of an interrupted training: skipped by name, and the older one or the start leads to the same."""
    stage, number = "train teacher", 0
    while number < min(tries, 20) * 2:
        root = reference.fresh(stage)
        process = start(root, stage)
        directory = root / "checkpoints/teacher/seed0"
        while process.is_alive() and not (directory / "state-10").is_dir():
            time.sleep(0.002)
        process.kill()
        process.join()
        states = sorted(directory.glob("state-*"), key=lambda path: int(path.name.split("-")[1]))
        if not states:
            continue  # it was done before it was killed
        damage(states[-1] / ("state.safetensors", "state.json")[number % 2], None, number, chance)
        wrong = reference.recovers(root, stage)
        number += 1
        told = f"skipped {states[-1]}" in Path(f"{root}.out").read_text()
        yield stage, wrong or ("" if told else "the damaged state was not named")


def alias(root: Path, name: str) -> Path:
    """Another name of a directory, so that each of the runs in it has an output of its own."""
    other = root.with_name(name)
    other.unlink(missing_ok=True)
    other.symlink_to(root)
    return other


def pair(reference: Reference, tries: int, chance: random.Random) -> Iterator[tuple[str, str]]:
    """Two starts at once: one works, the other says who does, or finds all done."""
    for number in range(min(tries, 20)):
        stage = list(STAGES)[number % len(STAGES)]
        root = reference.fresh(stage)
        other = alias(root, "other")
        began = time.monotonic()
        both = [start(root, stage), start(other, stage)]
        seconds = {}  # until each had ended
        while len(seconds) < 2:
            multiprocessing.connection.wait([each.sentinel for each in both if each not in seconds])
            seconds |= {each: time.monotonic() - began for each in both if each not in seconds and not each.is_alive()}
        codes = sorted(process.exitcode for process in both)
        outputs = [Path(f"{path}.out").read_text() for path in (root, other)]
        if codes not in ([0, 2], [0, 0]):
            yield stage, f"exit codes {codes}: {outputs}"
        elif codes == [0, 2] and min(seconds.values()) > 5:
            yield stage, f"took {seconds} s to refuse"
        elif codes == [0, 2] and not any("is being written by process" in output for output in outputs):
            yield stage, f"said {outputs}"
        else:
            yield stage, reference.recovers(root, stage)


BAD = {  # field: values that it refuses
    "max_length": ("1", "0", "-3", "x", "1.5", "[]"),
    "num_test": ("1", "0", "-3", "x", "1.5", "[]"),
    "temperatures": ("0", "-1", "nan", "inf", "x"),
    "learning_rate": ("0", "-1e-3", "nan", "fast", "null"),
    **dict.fromkeys(
        ("num_train", "num_validation", "shard_size", "batch_size", "teacher_epochs", "save_steps"), ("0",)
    ),
    "adam_beta1": ("1.5",),
    "weight_decay": ("-1",),
    "warmup_fraction": ("0.9",),
    "training_dtype": ("float16",),
    "tracker": ("mlflow",),
    "prompt": ("[99]",),
    "ground_truth": ("/nonexistent/model",),
    "seed": ("-1",),
    "unknown": ("1",),
}


def bad(reference: Reference, tries: int, chance: random.Random) -> Iterator[tuple[str, str]]:
    """A bad value, as a flag and in a profile: exit code 2 within 5 s, one line that names it, nothing written."""
    profile = reference.scratch / "bad.yaml"
    smoke = config.read_yaml(config.find_profile("smoke"))
    values = [(name, value) for name, refused in BAD.items() for value in refused]
    for name, value in values if tries >= len(values) else chance.sample(values, tries):
        profile.write_text(json.dumps(smoke | {name: config.yaml.safe_load(value)}))
        for how in (["--profile", "smoke", f"--{name}={value}"], ["--profile", str(profile)]):
            out = reference.scratch / "refused"
            command = [sys.executable, "-m", "llm.generate_data", "--out", str(out), *how]
            began = time.monotonic()
            done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
            seconds = time.monotonic() - began
            one_line = done.stderr.count("\n") == 1 and (name in done.stderr or "nonexistent" in done.stderr)
            fine = done.returncode == 2 and one_line and seconds < 5 and not out.exists()
            yield (
                name,
                "" if fine else f"{how}: exit code {done.returncode} after {seconds:.1f} s: {done.stderr[-300:]}",
            )


FAULTS = {each.__name__: each for each in (kill, failpoint, stop, disk, corrupt, state, pair, share, bad)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=50, help="of each fault at each stage (default: 50)")
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS), help="these faults alone")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and places")
    args = parser.parse_args()
    torch.set_num_threads(1)  # such small models are no faster with more
    counts, failed = {}, 0
    with tempfile.TemporaryDirectory() as scratch:
        reference = Reference.make(Path(scratch))
        for name in args.only:
            for place, wrong in FAULTS[name](reference, args.tries, random.Random(args.seed)):
                tried, survived = counts.get((name, place), (0, 0))
                counts[name, place] = tried + 1, survived + (not wrong)
                if wrong:
                    failed += 1
                    print(f"{name}, {place}: {wrong}", file=sys.stderr, flush=True)
    print("| fault | at | tries | survived |\n|---|---|---|---|")
    for (name, place), (tried, survived) in counts.items():
        print(f"| {name} | {place} | {tried} | {survived} |")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
