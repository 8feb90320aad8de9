"""Break the pipeline on purpose, and see whether a plain rerun gives what an undisturbed run gives.

    python -m scripts.faults                   # everything, 50 tries a stage: about an hour on 2 cores
    python -m scripts.faults --tries 2         # in some minutes
    python -m scripts.faults --once            # each fault once, each at another place: under a minute
    python -m scripts.faults --only kill disk

On a small version of the smoke profile, every entry is run once undisturbed. Then, from the directory as it was before
that entry, it is disturbed, run again, and its artefacts are compared by hash. Times are left out of the comparison,
since no two runs take the same. Prints a table of faults, tries and survivals; exit code 1 where one did not survive.
Full disks are small tmpfs mounts, for which one must be root.
"""

import random
import sys
import tempfile
from pathlib import Path

import torch

from llm.machine import processes
from llm.settings import config
from scripts.faults.damaged import bad, corrupt, disk, state
from scripts.faults.foreign import environment, model
from scripts.faults.reference import Reference
from scripts.faults.stopped import failpoint, kill, pair, part, stop

KINDS = (kill, failpoint, stop, disk, corrupt, state, pair, part, bad, model, environment)
FAULTS = {each.__name__: each for each in KINDS}


def main() -> None:
    parser = config.parser(__doc__)
    parser.add_argument("--tries", type=int, default=50, help="of each fault at each stage (default: 50)")
    parser.add_argument("--once", action="store_true", help="each fault once, at another of its stages or files each")
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS), help="these faults alone")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and places")
    args = parser.parse_args()
    torch.set_num_threads(1)  # such small models are no faster with more
    counts = {}
    with tempfile.TemporaryDirectory() as scratch:
        reference = Reference.make(Path(scratch))
        for number, name in enumerate(args.only):
            if args.once:
                reference.turn, args.tries = number, 1
            for place, wrong in FAULTS[name](reference, args.tries, random.Random(args.seed)):
                tried, survived = counts.get((name, place), (0, 0))
                counts[name, place] = tried + 1, survived + (not wrong)
                if wrong:
                    print(f"{name}, {place}: {wrong}", file=sys.stderr, flush=True)
    print("| fault | at | tries | survived |\n|---|---|---|---|")
    for (name, place), (tried, survived) in counts.items():
        print(f"| {name} | {place} | {tried} | {survived} |")
    sys.exit(any(tried != survived for tried, survived in counts.values()))


if __name__ == "__main__":
    processes.run_entry(main)
