"""What students minimise, against float64 formulas of numpy, closed forms of the gradients, and enumeration."""

import numpy as np
import pytest
import torch
from conftest import PROMPT, tiny_llama
from scipy.special import log_softmax, logsumexp, softmax

from llm.objectives import losses

INSIDE = (0.1, 0.5, 0.9)
DIVERGENCES = [("kl_teacher_student", ()), ("kl_student_teacher", ())]
DIVERGENCES += [
    (name, (value,))
    for name in ("jensen_shannon", "skewed_kl_teacher_student", "skewed_kl_student_teacher")
    for value in INSIDE
]
VOCABULARIES = (2, 5, 300)
CUT = [(name, k) for name in ("top_k", "top_k_tail") for k in ("one", "some", "all")]
LARGE = 49_152


def of_ids(k: str, vocab_size: int) -> int:
    return {"one": 1, "some": vocab_size // 2 + vocab_size % 2, "all": vocab_size}[k]


def loss(name: str, parameters: tuple, teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    return getattr(losses, name)(teacher, student, *parameters)


def kl(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """Of rows of log-probabilities; an id without probability in the first adds nothing."""
    seen = np.exp(log_p) > 0
    return (np.exp(log_p) * np.subtract(log_p, log_q, where=seen, out=np.zeros_like(log_p))).sum(-1)


def log_mixture(log_p: np.ndarray, log_q: np.ndarray, weight: float) -> np.ndarray:
    return np.logaddexp(log_p + np.log(weight), log_q + np.log(1 - weight))


def by_hand(name: str, parameters: tuple, teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    """The loss of each row in float64, from its definition over probabilities."""
    p, q = (log_softmax(np.asarray(logits, np.float64), -1) for logits in (teacher, student))
    match name, *parameters:
        case "kl_teacher_student", *_:
            return kl(p, q)
        case "kl_student_teacher", *_:
            return kl(q, p)
        case "jensen_shannon", beta:
            m = log_mixture(p, q, beta)
            return (beta * kl(p, m) + (1 - beta) * kl(q, m)) / (beta * (1 - beta))
        case "skewed_kl_teacher_student", weight:
            return kl(p, log_mixture(p, q, weight))
        case "skewed_kl_student_teacher", weight:
            return kl(q, log_mixture(p, q, 1 - weight))
    order = np.argsort(-p, -1, kind="stable")
    (p_in, q_in), (p_out, q_out) = (
        [np.take_along_axis(x, ids, -1) for x in (p, q)] for ids in np.split(order, [parameters[0]], -1)
    )
    if name == "top_k":
        return kl(p_in - logsumexp(p_in, -1, keepdims=True), q_in)
    if p_out.shape[-1] == 0:
        return kl(p_in, q_in)
    p_all, q_all = (np.append(x, logsumexp(rest, -1, keepdims=True), -1) for x, rest in ((p_in, p_out), (q_in, q_out)))
    return kl(p_all, q_all)


def random_logits(vocab_size: int, num_rows: int = 20, scale: float = 2.0) -> list[torch.Tensor]:
    """The teacher's and the student's, float64."""
    generator = np.random.default_rng(vocab_size)
    return [torch.from_numpy(scale * generator.standard_normal((num_rows, vocab_size))) for _ in range(2)]


def cases(vocab_size: int) -> list[tuple[str, tuple]]:
    """Every loss that compares with the teacher's distribution, with its parameters."""
    return [*DIVERGENCES, *((name, (of_ids(k, vocab_size),)) for name, k in CUT)]


# --------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("vocab_size", VOCABULARIES)
def test_values_are_those_of_the_definitions(vocab_size):
    teacher, student = random_logits(vocab_size)
    for name, parameters in cases(vocab_size):
        wanted = by_hand(name, parameters, teacher.numpy(), student.numpy())
        exact = loss(name, parameters, teacher, student)
        np.testing.assert_allclose(exact.numpy(), wanted, rtol=1e-10, atol=1e-12, err_msg=f"{name} {parameters}")
        single = loss(name, parameters, teacher.float(), student.float())
        assert single.dtype == torch.float32
        np.testing.assert_allclose(single.numpy(), wanted, rtol=1e-5, atol=3e-6, err_msg=f"{name} {parameters}")


@pytest.mark.parametrize("vocab_size", VOCABULARIES)
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_the_losses_of_ids_are_means_of_negative_log_probabilities(vocab_size, dtype, rtol):
    student = random_logits(vocab_size)[1]
    ids = np.random.default_rng(1).integers(vocab_size, size=(len(student), 7))
    wanted = -np.take_along_axis(log_softmax(student.numpy(), -1), ids, -1)
    several = losses.sampled(student.to(dtype), torch.from_numpy(ids))
    one = losses.hard(student.to(dtype), torch.from_numpy(ids[:, 0]))
    np.testing.assert_allclose(several.numpy(), wanted.mean(-1), rtol=rtol)
    np.testing.assert_allclose(one.numpy(), wanted[:, 0], rtol=rtol)


@pytest.mark.parametrize(("name", "parameters"), DIVERGENCES)
def test_a_divergence_is_zero_where_both_agree_and_above_it_elsewhere(name, parameters):
    """Logits that differ by a constant are one distribution; and there the gradient is zero too."""
    for vocab_size in VOCABULARIES:
        teacher, student = random_logits(vocab_size)
        same = (teacher + 7).requires_grad_()
        zero = loss(name, parameters, teacher, same)
        (slope,) = torch.autograd.grad(zero.sum(), same)
        assert zero.abs().max() < 1e-13 and slope.abs().max() < 1e-13
        assert loss(name, parameters, teacher, student).min() > 1e-7


def test_what_is_cut_is_never_negative_and_with_every_id_the_forward_kl():
    for vocab_size in VOCABULARIES:
        teacher, student = random_logits(vocab_size)
        whole = by_hand("kl_teacher_student", (), teacher.numpy(), student.numpy())
        for name, k in CUT:
            found = loss(name, (of_ids(k, vocab_size),), teacher, student)
            assert found.min() > 0
            if k == "all":
                np.testing.assert_allclose(found.numpy(), whole, rtol=1e-10)


def test_top_k_is_least_at_the_teacher_cut_and_its_tail_is_free_in_the_other():
    teacher, _ = random_logits(5)
    order = teacher.argsort(-1, descending=True)
    cut = teacher.scatter(-1, order[:, 2:], -60.0)
    assert losses.top_k(teacher, cut, 2).abs().max() < 1e-12 < 1e-2 < losses.top_k(teacher, teacher, 2).min()
    exchanged = teacher.scatter(-1, order[:, 2:], teacher.gather(-1, order[:, 2:].flip(-1)))
    assert losses.top_k_tail(teacher, exchanged, 2).abs().max() < 1e-12 < 1e-2
    assert losses.kl_teacher_student(teacher, exchanged).max() > 1e-2
    assert losses.top_k_tail(teacher, cut, 2).min() > 1e-2


@pytest.mark.parametrize(("beta", "limit"), [(1e-6, "kl_teacher_student"), (1 - 1e-6, "kl_student_teacher")])
def test_jensen_shannon_becomes_a_kl_at_either_end(beta, limit):
    for vocab_size in VOCABULARIES:
        teacher, student = random_logits(vocab_size, scale=1.0)
        wanted = by_hand(limit, (), teacher.numpy(), student.numpy())
        np.testing.assert_allclose(losses.jensen_shannon(teacher, student, beta).numpy(), wanted, rtol=1e-4)


# ------------------------------------------------------------------------------------------------ gradients


def slope_in_q(name: str, parameters: tuple, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The derivative of a loss in the student's probabilities."""
    match name, *parameters:
        case "kl_teacher_student", *_:
            return -p / q
        case "kl_student_teacher", *_:
            return np.log(q / p)
        case "jensen_shannon", beta:
            return (1 - beta) * np.log(q / (beta * p + (1 - beta) * q)) / (beta * (1 - beta))
        case "skewed_kl_teacher_student", weight:
            return -(1 - weight) * p / (weight * p + (1 - weight) * q)
        case "skewed_kl_student_teacher", weight:
            m = (1 - weight) * p + weight * q
            return np.log(q / m) - weight * q / m
    kept = p >= np.sort(p, -1)[:, [-parameters[0]]]
    if name == "top_k":
        return np.where(kept, -p / np.where(kept, p, 0).sum(-1, keepdims=True), 0) / q
    tails = [np.where(kept, 0, x).sum(-1, keepdims=True) for x in (p, q)]
    return np.where(kept, -p / q, -tails[0] / np.where(kept, 1, tails[1]))


@pytest.mark.parametrize("vocab_size", VOCABULARIES)
def test_gradients_are_the_closed_forms(vocab_size):
    teacher, student = random_logits(vocab_size)
    p, q = (softmax(logits.numpy(), -1) for logits in (teacher, student))
    student.requires_grad_()
    for name, parameters in cases(vocab_size):
        u = slope_in_q(name, parameters, p, q)
        wanted = q * (u - (q * u).sum(-1, keepdims=True))
        (found,) = torch.autograd.grad(loss(name, parameters, teacher, student).sum(), student)
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-9, atol=1e-13, err_msg=f"{name} {parameters}")


@pytest.mark.parametrize(("name", "k"), CUT)
def test_gradients_of_what_is_cut_are_those_of_differences(name, k):
    teacher, student = random_logits(5, num_rows=4)
    assert torch.autograd.gradcheck(
        lambda logits: loss(name, (of_ids(k, 5),), teacher, logits), student.requires_grad_()
    )


@pytest.mark.parametrize("m", [1, 2])
def test_the_sampled_loss_averages_to_the_forward_kl_and_the_entropy(m):
    """Over every way to draw m ids, with its probability; its gradient to that of the forward KL, Q - P."""
    teacher, student = random_logits(5, num_rows=3)
    p, q = (softmax(logits.numpy(), -1) for logits in (teacher, student))
    ids = torch.cartesian_prod(*[torch.arange(5)] * m).reshape(-1, m)
    for row in range(len(p)):
        logits = student[row].clone().requires_grad_()
        weights = torch.from_numpy(p[row])[ids].prod(-1)
        mean = (weights * losses.sampled(logits.expand(len(ids), -1), ids)).sum()
        (slope,) = torch.autograd.grad(mean, logits)
        entropy = -(p[row] * np.log(p[row])).sum()
        divergence = (p[row] * np.log(p[row] / q[row])).sum()
        assert mean.item() == pytest.approx(divergence + entropy, rel=1e-12)
        np.testing.assert_allclose(slope.numpy(), q[row] - p[row], atol=1e-14)


@pytest.mark.parametrize("vocab_size", [5, 300])
@pytest.mark.parametrize("parameter", [1e-6, 1e-3, 1 - 1e-3, 1 - 1e-6])
def test_float32_is_enough_for_mixtures_of_nearly_one_of_the_two(vocab_size, parameter):
    """There the two distributions differ from the mixture by less than a logarithm of float32 is exact to."""
    logits = random_logits(vocab_size, scale=1.0)
    for name in ("jensen_shannon", "skewed_kl_teacher_student", "skewed_kl_student_teacher"):
        values, slopes = [], []
        for dtype in (torch.float32, torch.float64):
            teacher, student = (each.to(dtype) for each in logits)
            values.append(loss(name, (parameter,), teacher, student.requires_grad_()))
            slopes += torch.autograd.grad(values[-1].sum(), student)
        np.testing.assert_allclose(*(each.detach().numpy() for each in values), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(*(each.numpy() for each in slopes), rtol=1e-4, atol=1e-7)


# -------------------------------------------------------------------------------------------- extreme logits


def extreme(vocab_size: int) -> list[torch.Tensor]:
    """Pairs of rows in float32, without ties: spread over +-1e4, an id that has all or nearly all, moderate ones."""
    generator, rows = np.random.default_rng(0), []
    for _ in range(2):
        wide = generator.permutation(np.linspace(-1e4, 1e4, vocab_size))
        sure = generator.permutation(np.linspace(-1e4, -9e3, vocab_size))
        sure[generator.integers(vocab_size)] = 1e4
        near, moderate = generator.standard_normal((2, vocab_size))
        near[generator.integers(vocab_size)] += 25
        rows.append(torch.from_numpy(np.stack([wide, sure, near, moderate])).float())
    teacher, student = rows
    places = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    one, other = teacher[places[:, 0]], student[places[:, 1]]
    return [torch.cat([one, teacher]), torch.cat([other, teacher])]


@pytest.mark.parametrize("vocab_size", [2, LARGE])
def test_extreme_logits_have_finite_gradients_and_the_values_of_float64(vocab_size):
    teacher, student = extreme(vocab_size)
    for name, parameters in cases(vocab_size):
        if vocab_size == LARGE and parameters and parameters[0] in (0.1, 0.9, 1):
            continue  # as at 0.5, and at more ids
        logits = student.clone().requires_grad_()
        found = loss(name, parameters, teacher, logits)
        (slope,) = torch.autograd.grad(found.sum(), logits)
        assert slope.isfinite().all(), (name, parameters)
        wanted = by_hand(name, parameters, teacher.numpy(), student.numpy())
        np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-5, atol=1e-5, err_msg=f"{name} {parameters}")


# ---------------------------------------------------------------------------------------------- what is found


@pytest.fixture(scope="module")
def table() -> torch.Tensor:
    """log p*( . | prefix) in float64 of a tiny p* of five ids: after its prompt, and after each id behind it."""
    model = tiny_llama(4, vocab_size=5)
    with torch.no_grad():
        after = model(input_ids=torch.tensor([[PROMPT, v] for v in range(5)])).logits.double()
    return torch.log_softmax(torch.cat([after[:1, 0], after[:, 1]]), -1)


def minimised(name: str, parameters: tuple, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The distributions of an unrestricted table of logits, in the end, and the loss of its rows."""
    logits = torch.randn(teacher.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    adam = torch.optim.LBFGS([logits.requires_grad_()], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        adam.zero_grad()
        total = loss(name, parameters, teacher, logits).sum()
        total.backward()
        return total

    adam.step(closure)
    return torch.softmax(logits.detach(), -1), loss(name, parameters, teacher, logits.detach())


@pytest.mark.parametrize(("name", "parameters"), DIVERGENCES)
def test_what_minimises_a_divergence_is_the_teacher(table, name, parameters):
    found, _ = minimised(name, parameters, table)
    np.testing.assert_allclose(found.numpy(), table.exp().numpy(), atol=1e-3)


def test_what_minimises_the_cut_ones_has_the_largest_ids_alone_or_with_the_sum_of_the_others(table):
    p = table.exp()
    largest, ids = p.topk(2, -1)
    found, left = minimised("top_k", (2,), table)
    kept = found.gather(-1, ids)
    assert left.max() < 1e-2 and (1 - kept.sum(-1)).max() < 1e-2
    np.testing.assert_allclose(kept.numpy(), (largest / largest.sum(-1, keepdim=True)).numpy(), atol=1e-2)
    found, left = minimised("top_k_tail", (2,), table)
    kept = found.gather(-1, ids)
    np.testing.assert_allclose(kept.numpy(), largest.numpy(), atol=1e-3)
    np.testing.assert_allclose(kept.sum(-1).numpy(), largest.sum(-1).numpy(), atol=1e-3)
    assert (found - p).abs().max() > 1e-2  # the others are not found one by one
