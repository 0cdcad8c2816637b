"""The losses as their papers write them, in arithmetic of 150 digits.

There is not one derivative in this file: a gradient is a central difference with a step of 1e-45, whose error of about
1e-90 is far below the 20 digits that the tables keep. It therefore shares nothing with the gradients of the crate.

Needs mpmath (1.3).
"""

from mpmath import acos, cos, exp, floor, fsum, log, mp, mpf, nstr, pi, sin, sqrt

mp.dps = 150
STEP = mpf(10) ** -45


def dot(a, b):
    return fsum(p * q for p, q in zip(a, b))


def norm(a):
    return sqrt(dot(a, a))


def cosine(x, w):
    return dot(x, w) / (norm(x) * norm(w))


def angle(x, w):
    return acos(max(mpf(-1), min(mpf(1), cosine(x, w))))


# The target's logit as a function of its angle, before scaling.


def plain(t):
    return cos(t)


def arc(margin, past_pi="paper"):
    m = mpf(margin)
    tails = {
        "linear": (pi - m, lambda t: cos(t) - m * sin(m)),
        "smooth": (pi - m, lambda t: -2 - cos(t + m)),
        "joined": (pi - m, lambda t: cos(t) - (1 - cos(m))),
        "cosine": ((pi - m) / 2, lambda t: cos(t) - 2 * sin(m / 2)),
    }

    def psi(t):
        if past_pi == "easy":
            return cos(t + m) if cos(t) > 0 else cos(t)
        if past_pi == "paper":
            return cos(t + m)
        joint, tail = tails[past_pi]
        return tail(t) if t > joint else cos(t + m)

    return psi


def combined(m1, m2, m3):
    m1, m2, m3 = mpf(m1), mpf(m2), mpf(m3)
    return lambda t: cos(m1 * t + m2) - m3


def a_softmax(m, lam=0):
    def psi(t):
        k = min(int(floor(m * t / pi)), m - 1)
        return (lam * cos(t) + (-1) ** k * cos(m * t) - 2 * k) / (1 + mpf(lam))

    return psi


# A row's logits. The rivals of the target never pass through an angle.


def linear(x, weights, label, bias):
    return [dot(w, x) + b for w, b in zip(weights, bias)]


def free_norm(psi):
    def logits(x, weights, label):
        length = norm(x)
        return [length * (psi(angle(x, w)) if j == label else cosine(x, w)) for j, w in enumerate(weights)]

    return logits


def unit_norm(psi):
    def logits(x, weights, label, scale):
        return [scale * (psi(angle(x, w)) if j == label else cosine(x, w)) for j, w in enumerate(weights)]

    return logits


def cross_entropy(logits, label):
    top = max(logits)
    return log(fsum(exp(z - top) for z in logits)) + top - logits[label]


def mean_loss(logits, features, weights, labels, *learnables):
    rows = [
        cross_entropy(logits(x, weights, y, *learnables), y) for x, y in zip(features, labels)
    ]
    return fsum(rows) / len(rows)


def center_loss(features, centers, labels):
    return fsum(
        fsum((a - b) ** 2 for a, b in zip(x, centers[y])) for x, y in zip(features, labels)
    ) / (2 * len(labels))


def gradient(function, matrix):
    """The central differences of function(matrix), row after row."""

    def at(i, j, step):
        moved = [list(row) for row in matrix]
        moved[i][j] += step
        return function(moved)

    return [
        (at(i, j, STEP) - at(i, j, -STEP)) / (2 * STEP)
        for i in range(len(matrix))
        for j in range(len(matrix[0]))
    ]


def digits(values):
    """Twenty digits of each, blank between them."""
    return " ".join(nstr(v, 20) for v in values)
