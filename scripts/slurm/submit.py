"""Submit the four stages as jobs, each to start when the one before has ended well. Started by submit.sh.

--dry-run prints what would be submitted; all other arguments go to every stage.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

from submitit import AutoExecutor, JobEnvironment
from submitit.helpers import Checkpointable, TorchDistributedEnvironment

from llm.machine.processes import UsageError, run_entry, say
from llm.settings import config


class Stage(Checkpointable):
    """A script as a job: called once on each of the job's nodes, and again when the job is queued again."""

    def __call__(self, command: list[str]) -> None:
        """Run a command to its end, or until the job is stopped. RuntimeError where it ends in a fault."""
        job, world = JobEnvironment(), TorchDistributedEnvironment()
        nodes = {"NNODES": str(job.num_nodes), "HEAD": f"{world.master_addr}:{world.master_port}"}
        script = subprocess.Popen(command, env=os.environ | nodes)
        queue_again, received = signal.getsignal(signal.SIGUSR2), set()  # the first is submitit's

        def stop(number: int, frame: object) -> None:
            received.add(number)
            script.terminate()  # what is complete is kept, and it ends with 143

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, stop)
        status = script.wait()
        stopped = received and not 0 <= status <= 128
        while stopped and signal.SIGUSR2 not in received and job.cluster == "slurm":
            signal.pause()  # preempted or cancelled: SLURM alone knows which, and queues the job again or ends it
        if stopped and signal.SIGUSR2 in received:  # the time limit is near
            queue_again(signal.SIGUSR2, None)  # and exits; on the job's other nodes it does nothing
        elif status:
            raise RuntimeError(f"{shlex.join(command)}: exit code {status}")


def executor_of(cluster: str, logs: str) -> AutoExecutor:
    """Return what submits jobs, with what all have in common. UsageError where this machine cannot."""
    if cluster not in ("slurm", "local"):
        raise UsageError(f"CLUSTER is {cluster!r}: it must be slurm or local")
    if cluster == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        raise UsageError("no sbatch and srun on this machine: go where they are, or run the jobs here by CLUSTER=local")
    if cluster == "local" and os.environ["NNODES"] != "1":
        raise UsageError("CLUSTER=local is one machine: leave out NNODES")
    executor = AutoExecutor(logs, cluster=cluster, slurm_max_num_timeout=100)
    executor.update_parameters(timeout_min=int(os.environ["TIME"]), tasks_per_node=1, cpus_per_task=8)
    executor.update_parameters(stderr_to_stdout=True, slurm_signal_delay_s=180)
    executor.update_parameters(slurm_account=os.environ.get("ACCOUNT"), slurm_partition=os.environ.get("PARTITION"))
    executor.update_parameters(slurm_additional_parameters={"requeue": True, "kill-on-invalid-dep": "yes"})
    executor.update_parameters(slurm_srun_args=["--kill-on-bad-exit=1", "--cpus-per-task=8"])  # not inherited by srun
    if cluster == "slurm":
        executor._executor.update_parameters(wckey=None)  # else submitit's own, which some clusters refuse
    return executor


def main() -> None:
    _, out, args = config.parse(__doc__)  # a wrong flag is told before anything is submitted
    flags, cluster = [each for each in sys.argv[1:] if each != "--dry-run"], os.environ["CLUSTER"]
    executor = executor_of(cluster, f"{out}/logs/{time.strftime('%Y-%m-%d-%H%M%S')}")
    workers, *whole = (int(os.environ[name]) for name in ("WORKERS", "NPROC", "NNODES"))
    parts, last = (workers, 1, 1), "eval_precision_and_recall"
    stages = [("generate_data", *parts), ("train", 1, *whole), ("eval_perplexity", *parts), (last, *parts)]
    stages += [(last, 1, 1, 1)] if workers > 1 else []  # parts leave the figure to a run without --part
    for name, num_jobs, gpus, nodes in stages:
        executor.update_parameters(name=f"kd-{name}", gpus_per_node=gpus, nodes=nodes)
        numbered = [["--part", f"{k}/{num_jobs}"] for k in range(1, num_jobs + 1)] if num_jobs > 1 else [[]]
        commands = [["env", f"NPROC={gpus}", "bash", f"run_{name}.sh", *part, *flags] for part in numbered]
        if args.dry_run:
            executor._executor.parameters["map_count"] = num_jobs if num_jobs > 1 else None
            sbatch, job_id = executor._executor._make_submission_file_text("COMMAND", ""), f"JOB_OF_{name}"
            say("\n".join([*map(shlex.join, commands), sbatch]))
        else:
            jobs = [job.cancel_at_deletion(cluster == "local") for job in executor.map_array(Stage(), commands)]
            job_id = jobs[0].job_id.split("_")[0]
            say(f"{name}: {', '.join(job.job_id for job in jobs)}")
            if failed := [job for job in jobs if cluster == "local" and job.exception()]:
                raise UsageError(f"{failed[0].paths.stdout} says why its job ended; mend that and run this again")
        executor.update_parameters(slurm_dependency=f"afterok:{job_id}")


if __name__ == "__main__":
    run_entry(main)
