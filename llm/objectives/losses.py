"""What a student minimises after each prefix: a divergence of its next-token distribution from the teacher's.

P = softmax(teacher's logits) and Q = softmax(student's logits) over one vocabulary. Each function takes the two rows of
logits [n, V], computes in their dtype and returns [n], nats a row, whose gradient flows to the student's logits; where
a mixture of P and Q is taken, through the mixture too. All but `hard` and `sampled` are divergences: 0 where P = Q, and
nowhere else but for `top_k` (P cut to its largest ids) and `top_k_tail` (which sees of the others only their sum).

Temperature: whoever calls divides the teacher's logits by tau, so that the student is to become the teacher at tau. The
student's are not divided, and there is no factor tau ** 2: Hinton et al. (2015, arXiv 1503.02531) divide both, which
makes a softened student match a softened teacher, and undo with tau ** 2 what that takes from the gradient.

With u_v the derivative of a loss in Q_v, its gradient in the student's logit v is Q_v (u_v - sum_w Q_w u_w). Losses
with a mixture are differentiated by that formula, in fewer passes over the [n, V] numbers than autograd's.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.linalg import vecdot
from torch.nn.functional import kl_div

LARGEST = 80.0  # of a logarithm whose exponential is taken: float32 holds it


def hard(student: Tensor, ids: Tensor) -> Tensor:
    """Return -log Q(id): cross-entropy with the id that follows in the data. ids: [n]."""
    return sampled(student, ids[:, None])


def sampled(student: Tensor, ids: Tensor) -> Tensor:
    """Return the mean of -log Q over m ids a row that were drawn from P.

    ids: [n, m]. Over their draws its mean is KL(P || Q) + H(P), so that its gradient's is that of `kl_teacher_student`.
    """
    return -torch.log_softmax(student, -1).gather(-1, ids).mean(-1)


def kl_teacher_student(teacher: Tensor, student: Tensor) -> Tensor:
    """Return KL(P || Q), the forward KL: sum_v P_v (log P_v - log Q_v), u = -P / Q (Hinton et al., 2015)."""
    return _kl(*_log_probs(teacher, student))


def kl_student_teacher(teacher: Tensor, student: Tensor) -> Tensor:
    """Return KL(Q || P), the reverse KL: u = log(Q / P), up to a constant (MiniLLM, arXiv 2306.08543)."""
    log_p, log_q = _log_probs(teacher, student)
    return _kl(log_q, log_p)


def jensen_shannon(teacher: Tensor, student: Tensor, beta: float) -> Tensor:
    """Return J_beta / (beta (1 - beta)), where, of the mixture M = beta P + (1 - beta) Q, with beta in (0, 1),

        J_beta = beta KL(P || M) + (1 - beta) KL(Q || M).

    beta is the teacher's weight in M: towards 0 the quotient becomes KL(P || Q), towards 1 KL(Q || P). Before the
    division u = (1 - beta) log(Q / M). It is GKD's (Agarwal et al., arXiv 2306.13649). TRL's generalized_jsd_loss of
    the same beta is J_beta itself inside (0, 1), and KL(P || Q) and KL(Q || P) at 0 and 1: its scale jumps there.
    """
    log_p, log_q = _log_probs(teacher, student.detach())
    p, q, p_over_q = log_p.exp(), log_q.exp(), (log_p - log_q).clamp_(-LARGEST, LARGEST)
    if beta <= 0.5:  # the smaller logarithm first, without rounding what it leaves of 0
        m_over_q = _mixture_over_first(p_over_q.clone(), 1 - beta).log1p_()
        m_over_p = m_over_q - p_over_q
    else:
        m_over_p = _mixture_over_first(-p_over_q, beta).log1p_()
        m_over_q = m_over_p + p_over_q
    u = m_over_q.div_(-beta)
    of_q = vecdot(q, u)
    return _Differentiated.apply(student, of_q - vecdot(p, m_over_p) / (1 - beta), u.sub_(of_q[:, None]).mul_(q))


def skewed_kl_teacher_student(teacher: Tensor, student: Tensor, lambda_: float) -> Tensor:
    """Return KL(P || lambda P + (1 - lambda) Q), lambda in (0, 1).

    u = -(1 - lambda) P / M with that mixture M (DistiLLM's skew KL: Ko et al., arXiv 2402.03898).
    """
    log_p, log_q = _log_probs(teacher, student.detach())
    q = log_q.exp()
    m_over_p = _mixture_over_first(log_q - log_p, lambda_)
    qu = _over_1_more(m_over_p).mul_(q).mul_(1 - lambda_)  # u but for a constant, which changes no gradient
    gradient = qu.addcmul_(q, qu.sum(-1, keepdim=True), value=-1)
    return _Differentiated.apply(student, -vecdot(log_p.exp_(), m_over_p.log1p_()), gradient)


def skewed_kl_student_teacher(teacher: Tensor, student: Tensor, lambda_: float) -> Tensor:
    """Return KL(Q || (1 - lambda) P + lambda Q), lambda in (0, 1).

    u = log(Q / M) - lambda Q / M with that mixture M (DistiLLM's skew reverse KL).
    """
    log_p, log_q = _log_probs(teacher, student.detach())
    q = log_q.exp()
    m_over_q = _mixture_over_first(log_p - log_q, lambda_)
    rest = _over_1_more(m_over_q)
    log_q_over_m = m_over_q.log1p_().neg_()
    loss = vecdot(q, log_q_over_m)
    qu = log_q_over_m.add_(rest, alpha=lambda_).mul_(q)  # u but for a constant, which changes no gradient
    return _Differentiated.apply(student, loss, qu.addcmul_(q, qu.sum(-1, keepdim=True), value=-1))


def top_k(teacher: Tensor, student: Tensor, k: int) -> Tensor:
    """Return KL(P' || Q), P' being P over its k largest ids, made to sum to 1; Q stays over the whole vocabulary.

    It is least where Q = P', not where Q = P: what is kept of a teacher's logits in many published pipelines.
    """
    logits, ids = teacher.topk(k, -1)
    return _kl(torch.log_softmax(logits, -1), torch.log_softmax(student, -1).gather(-1, ids))


def top_k_tail(teacher: Tensor, student: Tensor, k: int) -> Tensor:
    """Return the KL of P over its k largest ids and, as one more, all others together, from Q over the same k + 1.

    It is least where Q has P's k largest and their sum: how the rest is divided is left free.
    """
    _, ids = teacher.topk(k, -1)
    if k == teacher.shape[-1]:
        return kl_teacher_student(teacher, student)
    return kl_teacher_student(*(_with_tail(logits, ids) for logits in (teacher, student)))


def _with_tail(logits: Tensor, ids: Tensor) -> Tensor:
    """Return logits [n, k + 1]: those of the ids, and the one that stands for all others together."""
    others = logits.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([logits.gather(-1, ids), others], -1)


def _log_probs(teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    return torch.log_softmax(teacher, -1), torch.log_softmax(student, -1)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return sum_v p_v (log p_v - log q_v) of rows of log-probabilities."""
    return kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def _mixture_over_first(log_ratio: Tensor, weight: float) -> Tensor:
    """Return M / A - 1 = (1 - weight) (B / A - 1) of M = weight A + (1 - weight) B, exact also where it is near 0.

    log_ratio: log(B / A), which is overwritten. Above LARGEST, where A weighs nothing, it is taken for LARGEST.
    """
    return log_ratio.clamp_(max=LARGEST).expm1_().mul_(1 - weight)


def _over_1_more(x: Tensor) -> Tensor:
    """Return x / (1 + x): of x = M / A - 1 it is 1 - A / M, exact also where that is near 0."""
    found = x.add(1)
    return torch.div(x, found, out=found)


class _Differentiated(torch.autograd.Function):
    """A loss of each row [n], together with its gradient in the student's logits [n, V]."""

    @staticmethod
    def forward(ctx, student: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, of_loss: Tensor) -> tuple[Tensor, None, None]:
        return of_loss[:, None] * ctx.saved_tensors[0], None, None
