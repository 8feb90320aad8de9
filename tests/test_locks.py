"""Work that several runs share: who claims what, and that the parts make the whole that one run makes."""

import os
import re
import signal
import subprocess
import sys

import pytest
from conftest import entry

from llm import shards
from llm.config import REPOSITORY
from llm.locks import claimed
from llm.paths import Paths

FLAGS = ["--profile", "smoke", "--num_train", "300", "--num_validation", "20", "--num_test", "20", "--shard_size", "20"]


def child(code: str, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *arguments]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return subprocess.Popen(command, cwd=REPOSITORY, text=True, **pipes)


def test_a_claim_is_of_one_target_and_dies_with_its_process(tmp_path):
    where = Paths(tmp_path)
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from llm.files import atomic\n"
        "from llm.locks import claimed\n"
        "from llm.paths import Paths\n"
        "root = Path(sys.argv[1])\n"
        "with claimed(root / 'a', Paths(root)) as mine, atomic(root / 'a') as temporary:\n"
        "    temporary.write_text('half')\n"
        "    print(mine, flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    with child(code, str(tmp_path)) as holder:
        assert holder.stdout.readline() == "True\n"
        with claimed(tmp_path / "a", where) as mine:
            assert not mine
        with claimed(tmp_path / "b", where) as mine:
            assert mine
        assert len(list(tmp_path.glob(".a.*.tmp"))) == 1
        holder.send_signal(signal.SIGKILL)
    with claimed(tmp_path / "a", where) as mine:
        assert mine and not list(tmp_path.glob(".a.*.tmp"))


SHARING = (  # a run whose shards take a moment each, and that starts to work when it is told to
    "import sys, time\n"
    "from llm import config, generate_data, sampling\n"
    "real = sampling.sample\n"
    "def slow(*arguments, **keywords):\n"
    "    time.sleep(0.1)\n"
    "    return real(*arguments, **keywords)\n"
    "sampling.sample = slow\n"
    "import transformers, torch, llm.decoding\n"
    "print('ready', flush=True)\n"
    "sys.stdin.readline()\n"
    "config.run(generate_data.main)\n"
)


def test_runs_that_share_draw_what_one_draws(tmp_path):
    flags = [*FLAGS, "--out", str(tmp_path / "shared"), "--share"]
    workers = [child(SHARING, *flags) for _ in range(2)]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for line in workers[0].stdout:
        if line.startswith("sampling in"):  # it is past the start, in which it would be alone
            break
    refused = entry("llm.generate_data", *flags[:-1])
    told = [worker.communicate(timeout=60) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], told
    drawn = [int(number) for out, _ in told for number in re.findall(r"train: (\d+) of 15 missing shards", out)]
    assert refused.returncode == 2 and "or one that shares with it: wait for it" in refused.stderr
    assert entry("llm.generate_data", *FLAGS, "--out", str(tmp_path / "alone")).returncode == 0
    for split in ("train", "validation", "test"):
        alone, shared = (tmp_path / root / "samples/ground_truth/tau1.00" / split for root in ("alone", "shared"))
        names = sorted(path.name for path in alone.iterdir())
        assert names == sorted(path.name for path in shared.iterdir())
        assert all((alone / name).read_bytes() == (shared / name).read_bytes() for name in names)
    assert len(shards.read_manifest(shared.with_name("train"))["shards"]) == 15
    assert len(drawn) == 2 and min(drawn) > 0 and sum(drawn) == 15, told


def test_a_run_does_not_share_with_one_that_does_not(tmp_path):
    alone = child(SHARING, *FLAGS, "--out", str(tmp_path))
    with alone:
        assert alone.stdout.readline() == "ready\n"
        alone.stdin.write("go\n")
        alone.stdin.flush()
        assert alone.stdout.readline()
        refused = entry("llm.generate_data", *FLAGS, "--out", str(tmp_path), "--share")
        os.kill(alone.pid, signal.SIGKILL)
    assert refused.returncode == 2 and f"is being written by process {alone.pid} on" in refused.stderr


@pytest.mark.parametrize("change", [["--num_test", "30"], ["--seed", "1"]])
def test_a_run_of_other_settings_does_not_share(tmp_path, change):
    flags = [*FLAGS, "--out", str(tmp_path), "--share"]
    assert entry("llm.generate_data", *flags).returncode == 0
    done = entry("llm.generate_data", *flags, *change)
    assert done.returncode == 2 and "was made with other settings" in done.stderr
