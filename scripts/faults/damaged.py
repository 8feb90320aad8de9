"""What is on the disk, or is asked for, is wrong: a full disk, damaged artefacts and states, bad values.

Each fault yields (where, what is wrong or "") for every try.
"""

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from llm.settings import config, yaml_text
from scripts.faults.reference import PAGE, STAGES, Entry, Reference


def disk(reference: Reference, tries: int, chance: random.Random) -> Iterator[tuple[str, str]]:
    """A disk that is full on the way: an exit code, the path and the bytes; and after space is made, the same end."""
    mount = reference.scratch / "small"  # the whole of a run; its output lies beside, where there is space
    mount.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mount], capture_output=True).returncode:
        print("disk: not tried, a small tmpfs cannot be mounted here (it needs root)", file=sys.stderr)
        return
    subprocess.run(["umount", mount], check=True)
    for stage in reference.places(STAGES):
        before, after = reference.disk[stage]
        num_full, attempts = 0, 0
        while num_full < min(tries, 10) and (attempts := attempts + 1) <= 40:
            free = int(chance.uniform(0, max(after - before, PAGE)))
            size = before + free // PAGE * PAGE + PAGE  # a page for its root
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", mount], check=True)
            try:
                shutil.copytree(reference.before[stage], mount, dirs_exist_ok=True)
                code, output = Entry(mount, stage).end()
                if not code:
                    continue  # the disk was not full after all
                num_full += 1
                if "Traceback" in output or str(mount) not in output or " bytes " not in output:
                    yield stage, f"said {output[-400:]}"
                    continue
                subprocess.run(["mount", "-o", "remount,size=64m", mount], check=True)
                yield stage, reference.goes_on(mount, stage)
            finally:
                subprocess.run(["umount", mount], check=True)


SAMPLES = "samples/ground_truth/tau1.00/train"
DISTILLED = "samples/teacher/tau{}/seed0/train/shard-00000.arrow"
SCORES = "scores/student_direct/tau1.00/seed0/test"
DIRECT, TEACHER = "checkpoints/student_direct/seed0", "checkpoints/teacher/seed0"
DAMAGED = [  # a file, and another to swap it with
    ("ground_truth/model.safetensors", None),
    ("ground_truth/config.json", None),
    ("ground_truth/distribution.json", None),
    (f"{SAMPLES}/shard-00001.arrow", f"{SAMPLES}/shard-00002.arrow"),
    (f"{SAMPLES}/manifest.json", "samples/ground_truth/tau1.00/test/manifest.json"),
    ("samples/teacher/tau0.80/seed0/train/shard-00000.arrow", "samples/teacher/tau1.00/seed0/train/shard-00000.arrow"),
    (f"{TEACHER}/epoch-1/model.safetensors", f"{TEACHER}/epoch-2/model.safetensors"),
    (f"{TEACHER}/epoch-2/config.json", f"{TEACHER}/epoch-2/generation_config.json"),
    (f"{DIRECT}/epoch-2/sha256.json", f"{DIRECT}/epoch-1/sha256.json"),
    (f"{DIRECT}/training.json", f"{DIRECT}/selection.json"),
    (f"{DIRECT}/selection.json", f"{TEACHER}/selection.json"),
    (f"{SCORES}/by_ground_truth/shard-00000.json", f"{SCORES}/by_student_direct_seed0/shard-00000.json"),
    (f"{SCORES}/by_ground_truth/shard-00000.npy", f"{SCORES}/by_ground_truth/shard-00001.npy"),
    ("results/sequences.parquet", None),
    ("results/table.csv", None),
]


def damage(path: Path, other: Path | None, number: int, chance: random.Random) -> None:
    """Flip a bit of a file, truncate it, delete it, or swap it with the other one."""
    data = bytearray(path.read_bytes())
    ways = ["flip", "truncate", "flip", "delete", *(["swap"] if other else [])]
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
        path.write_bytes(other.read_bytes())
        other.write_bytes(data)


def corrupt(reference: Reference, tries: int, chance: random.Random) -> Iterator[tuple[str, str]]:
    """A damaged artefact of a finished run: the scripts, run in order, end as if it had not been."""
    for name, other in reference.places(DAMAGED):
        for number in range(min(tries, 20)):
            root = reference.fresh()
            damage(root / name, other and root / other, number, chance)
            wrong = ""
            for stage in STAGES:
                code, output = Entry(root, stage).end()
                if code:
                    wrong = f"{stage} ended with exit code {code}: {output[-300:]}"
                    break
            yield name, wrong or reference.differing(root, stage)


def state(reference: Reference, tries: int, chance: random.Random) -> Iterator[tuple[str, str]]:
    """A damaged state of an interrupted training: skipped by name, and the older one or the start leads to the same."""
    stage, number = "train teacher", 0
    while number < min(tries, 20) * 2:
        root = reference.fresh(stage)
        process = Entry(root, stage)
        directory = root / "checkpoints/teacher/seed0"
        while process.is_alive() and not (directory / "state-10").is_dir():
            time.sleep(0.002)
        process.kill()
        states = sorted(directory.glob("state-*"), key=lambda path: int(path.name.split("-")[1]))
        if not states:
            continue  # it was done before it was killed
        damage(states[-1] / ("state.safetensors", "state.json")[number % 2], None, number, chance)
        number += 1
        wrong = reference.recovers(root, stage)
        named = f"skipped {states[-1]}" in process.output.read_text("utf-8")  # of the rerun, which has the same output
        yield stage, wrong or ("" if named else "the damaged state was not named")


COUNTS = ("num_train", "num_validation", "shard_size", "batch_size", "teacher_epochs", "save_steps")
BAD = {  # field: values that it refuses
    "max_length": ("1", "0", "-3", "x", "1.5", "[]"),
    "num_test": ("1", "0", "-3", "x", "1.5", "[]"),
    "temperatures": ("0", "-1", "nan", "inf", "x"),
    "learning_rate": ("0", "-1e-3", "nan", "fast", "null"),
    **dict.fromkeys(COUNTS, ("0",)),
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
    profile, out = reference.scratch / "bad.yaml", reference.scratch / "refused"
    smoke = config.read_profile(config.find_profile("smoke"))
    values = [(name, value) for name, refused in BAD.items() for value in refused]
    for name, value in values if tries >= len(values) else chance.sample(values, tries):
        profile.write_text(json.dumps(smoke | {name: yaml_text.from_yaml(value)}), encoding="utf-8")
        for how in (["--profile", "smoke", f"--{name}={value}"], ["--profile", str(profile)]):
            command = [sys.executable, "-m", "llm.generate_data", "--out", str(out), *how]
            began = time.monotonic()
            done = subprocess.run(command, cwd=config.REPOSITORY, capture_output=True, text=True)
            seconds = time.monotonic() - began
            one_line = done.stderr.count("\n") == 1 and (name in done.stderr or "nonexistent" in done.stderr)
            fine = done.returncode == 2 and one_line and seconds < 5 and not out.exists()
            said = f"{how}: exit code {done.returncode} after {seconds:.1f} s: {done.stderr[-300:]}"
            yield name, "" if fine else said
