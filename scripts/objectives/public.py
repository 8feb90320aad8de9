r"""Record what losses of public packages are on fixed random logits, for a test that compares ours with them.

    python3 -m venv ../public && ../public/bin/pip install torch==2.13.0 transformers==5.24.0 trl==1.16.0 \
        gs-divergence==1.0.8
    ../public/bin/pip install --no-deps axolotl==0.19.0 liger-kernel==0.8.5 ms-swift==4.6.0 nvidia-modelopt==0.47.0 \
        torchtune==0.6.1
    ../public/bin/python -m scripts.objectives.public

Writes public.csv beside this file, in seconds. It is no part of CI: there tests/objectives/test_public.py reads the
table alone. Any build of torch 2.13.0 will do, the one for CPUs too. The second installation spares what its packages
depend on: of most a single file is loaded, which needs torch alone.

A row of the table is a value of theirs, of one prefix, and what it should be by ours:

    theirs = factor * ours(logits / temperature) + added

factor is a number; added is nothing, or the entropy of the teacher, which torchtune's forward KL (a cross-entropy) has
in it. Each value is a sum over the ids of one prefix: losses that return no more than a sum or a mean over prefixes are
called with one. DistiLLM is no package; its two skewed KLs are those of gs-divergence, which calls them geodesical skew
divergences and has them at alpha = -1.
"""

import csv
import importlib
import importlib.util
import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import numpy as np

TABLE = Path(__file__).with_suffix(".csv")
SEED, NUM_ROWS, VOCABULARIES = 0, 3, (7, 50)
BETAS = (0.0, 0.1, 0.5, 0.9, 1.0)
LAMBDAS = (0.1, 0.5, 0.9)
TEMPERATURES = (1.0, 2.0)
NUM_KEPT = (1, 3)  # of a teacher that is cut


def logits(seed: int, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the teacher's and the student's, float64 [NUM_ROWS, vocab_size]; the teacher is the more selective."""
    generator = np.random.default_rng([seed, vocab_size])
    teacher, student = generator.standard_normal((2, NUM_ROWS, vocab_size))
    return 2.0 * teacher, student


@dataclass(frozen=True)
class Case:
    """A call of theirs, and ours that should agree with it."""

    package: str  # the name that it is installed by
    function: str
    their_parameters: str
    our_loss: str
    call: Callable  # (teacher, student), tensors [n, V] that are not yet divided by a temperature, -> n values
    our_parameters: str = ""
    factor: float = 1.0
    added: str = ""
    temperature: float = 1.0  # of both
    dtype: str = "float64"


def of_jensen_shannon(beta: float) -> dict:
    """Return what of ours a generalized_jsd_loss should be whose beta is the teacher's weight in the mixture."""
    if beta in (0, 1):
        return {"our_loss": "kl_student_teacher" if beta else "kl_teacher_student"}
    return {"our_loss": "jensen_shannon", "our_parameters": f"beta={beta}", "factor": beta * (1 - beta)}


def one_by_one(loss: Callable) -> Callable:
    """Return a call that gives each row to a loss that reduces over rows."""
    return lambda teacher, student: [loss(t[None], s[None]) for t, s in zip(teacher, student, strict=True)]


def file_of(package: str, path: str) -> ModuleType:
    """Return a module from its file alone, without importing the package around it."""
    name = f"public_{package}_{path.replace('/', '_').removesuffix('.py')}"
    root = Path(importlib.util.find_spec(package).submodule_search_locations[0])
    spec = importlib.util.spec_from_file_location(name, root / path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where its dataclasses look for it
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------------------------------------------------------- packages


def trl() -> Iterator[Case]:
    """Yield TRL's: of the GKD trainer, of the trainer that is to follow it, and of one that cuts the teacher."""
    import torch

    gkd = importlib.import_module("trl.experimental.gkd").GKDTrainer.generalized_jsd_loss
    iw_opd = importlib.import_module("trl.experimental.iw_opd").IWOPDTrainer.generalized_jsd_loss
    chunked = importlib.import_module("trl.trainer.distillation_trainer")._chunked_divergence_loss
    for tau in TEMPERATURES:
        for beta in BETAS:
            common = {"their_parameters": f"beta={beta}, temperature={tau}", "temperature": tau}
            common |= of_jensen_shannon(beta)

            def of_gkd(teacher, student, beta=beta, tau=tau):
                return gkd(student, teacher, beta=beta, temperature=tau, reduction="none").sum(-1)

            def of_hidden_states(teacher, student, beta=beta, tau=tau):
                heads = [torch.eye(teacher.shape[-1], dtype=teacher.dtype)] * 2
                return chunked(student[None], teacher[None], *heads, torch.ones(1, 1), beta, temperature=tau)[0]

            yield Case("trl", "GKDTrainer.generalized_jsd_loss", call=of_gkd, **common)
            name = "distillation_trainer._chunked_divergence_loss"
            yield Case("trl", name, call=one_by_one(of_hidden_states), dtype="float32", **common)
        for k in NUM_KEPT:

            def of_top_k(teacher, student, k=k, tau=tau):
                return iw_opd(
                    student, teacher, beta=0.0, temperature=tau, reduction="none", top_k=k, add_tail=True
                ).sum(-1)

            yield Case(
                "trl",
                "IWOPDTrainer.generalized_jsd_loss",
                f"beta=0.0, temperature={tau}, top_k={k}, add_tail=True",
                "top_k_tail",
                of_top_k,
                f"k={k}",
                temperature=tau,
            )


def ms_swift() -> Iterator[Case]:
    """Yield ms-swift's, whose loss is a sum over prefixes, returned with how many there are."""
    import torch

    module = file_of("swift", "rlhf_trainers/gkd_loss.py")
    for tau in TEMPERATURES:
        for beta in BETAS:

            def call(teacher, student, beta=beta, tau=tau):
                labels = torch.zeros(len(student), dtype=torch.long)
                output = module.TeacherOutput(full_logits=teacher, labels=labels)
                return module.gkd_loss(student, output, labels, beta, tau)[0]

            parameters = f"beta={beta}, temperature={tau}"
            common = of_jensen_shannon(beta)
            yield Case("ms-swift", "gkd_loss", parameters, call=one_by_one(call), temperature=tau, **common)


def liger_kernel() -> Iterator[Case]:
    """Yield Liger's, which has had both logits divided by the temperature, and sums over prefixes."""
    loss = importlib.import_module("liger_kernel.chunked_loss.jsd_loss").LigerFusedLinearJSDFunction
    for beta in BETAS:

        def call(teacher, student, beta=beta):
            return loss.distillation_loss_fn(student, teacher, beta=beta)

        name = "LigerFusedLinearJSDFunction.distillation_loss_fn"
        yield Case("liger-kernel", name, f"beta={beta}", call=one_by_one(call), **of_jensen_shannon(beta))


def torchtune() -> Iterator[Case]:
    """Yield torchtune's, a mean over prefixes; its forward KL is the cross-entropy, without the teacher's entropy."""
    import torch

    module = file_of("torchtune", "modules/loss/kd_losses.py")
    for name, ours, added in (
        ("ForwardKLLoss", "kl_teacher_student", "entropy of the teacher"),
        ("ReverseKLLoss", "kl_student_teacher", ""),
    ):
        loss = getattr(module, name)()

        def call(teacher, student, loss=loss):
            return loss(student, teacher, torch.zeros(len(student), dtype=torch.long))

        yield Case("torchtune", name, "", ours, one_by_one(call), added=added, dtype="float32")


def modelopt() -> Iterator[Case]:
    """Yield ModelOpt's, which divides both by the temperature and multiplies by its square."""
    loss = file_of("modelopt", "torch/distill/losses.py").LogitsDistillationLoss
    for tau in TEMPERATURES:

        def call(teacher, student, tau=tau):
            return loss(temperature=tau, reduction="none")(student, teacher)

        parameters = f"temperature={tau}"
        ours = {"our_loss": "kl_teacher_student", "factor": tau**2}
        yield Case("nvidia-modelopt", "LogitsDistillationLoss", parameters, call=call, temperature=tau, **ours)


def gs_divergence() -> Iterator[Case]:
    """Yield the skew divergence of its first argument from the mixture with the second, whose weight is lmd."""
    import torch

    loss = importlib.import_module("gs_divergence").gs_div
    for lambda_ in LAMBDAS:
        for first, ours in (("teacher", "skewed_kl_teacher_student"), ("student", "skewed_kl_student_teacher")):

            def call(teacher, student, lmd=1 - lambda_, swap=first == "student"):
                two = [torch.softmax(each, -1) for each in (teacher, student)]
                return loss(*(two[::-1] if swap else two), alpha=-1, lmd=lmd, reduction="none").sum(-1)

            parameters = f"input={first}, alpha=-1, lmd={1 - lambda_:.1f}"
            yield Case("gs-divergence", "gs_div", parameters, ours, call, f"lambda_={lambda_}")


def axolotl() -> Iterator[Case]:
    """Yield axolotl's, of the teacher's largest, which it makes to sum to 1, and the student's whole vocabulary."""
    import torch

    loss = file_of("axolotl", "integrations/kd/topk_logprob/forward_kl.py").loss
    normalised = file_of("axolotl", "integrations/kd/utils.py").normalize_logprobs
    for tau in TEMPERATURES:
        for k in NUM_KEPT:

            def call(teacher, student, k=k, tau=tau):
                log_probs, ids = torch.log_softmax(teacher / tau, -1).topk(k, -1)
                kept = [each[None] for each in (student, ids, normalised(log_probs, k), torch.ones_like(ids))]
                return loss(*kept, num_items_in_batch=1, kd_temperature=tau)

            yield Case(
                "axolotl",
                "topk_logprob.forward_kl.loss",
                f"k={k}, kd_temperature={tau}",
                "top_k",
                one_by_one(call),
                f"k={k}",
                temperature=tau,
                dtype="float32",
            )


PACKAGES = (trl, ms_swift, liger_kernel, torchtune, modelopt, gs_divergence, axolotl)


# ---------------------------------------------------------------------------------------------------- table


def rows(case: Case) -> Iterator[dict]:
    """Yield what a case is on each row of logits of each vocabulary."""
    import torch

    for vocab_size in VOCABULARIES:
        pair = (torch.from_numpy(each).to(getattr(torch, case.dtype)) for each in logits(SEED, vocab_size))
        for row, theirs in enumerate(case.call(*pair)):
            yield {
                "package": case.package,
                "version": version(case.package),
                "function": case.function,
                "their_parameters": case.their_parameters,
                "our_loss": case.our_loss,
                "our_parameters": case.our_parameters,
                "factor": case.factor,
                "added": case.added,
                "seed": SEED,
                "vocab_size": vocab_size,
                "row": row,
                "teacher_temperature": case.temperature,
                "student_temperature": case.temperature,
                "theirs": theirs.item(),
                "dtype": case.dtype,
            }


def main() -> None:
    """Write the table."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    found = [row for package in PACKAGES for case in package() for row in rows(case)]
    table = io.StringIO()
    writer = csv.DictWriter(table, found[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    TABLE.write_text(table.getvalue(), encoding="utf-8")
    print(f"{len(found)} values of {len(PACKAGES)} packages in {TABLE}")


if __name__ == "__main__":
    main()
