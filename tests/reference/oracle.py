"""Writes oracle.csv: every loss with all its gradients to 50 digits, on batches at the edges.

    python3 oracle.py > oracle.csv

Each batch has two rows, three classes and three dimensions, given by the bits of its entries as `f64`, which are taken as
exact; so are the parameters, which are all multiples of a power of two. The batches: ordinary; rows next to the angles 0 and π
from the weights of their classes (1e-9); rows exactly there, at twice the weight and at minus four times it; rows whose target
leads by far; rows and weights of norms 2^-300 ... 2^300.

As in check_values.py a gradient is a central difference. Its step is 1e-80 of the length of the row, in arithmetic of 600
digits: the norms differ by 2^590, so that such a step may be one of 1e-230 for a logit, or one of 1e-54. Where ArcFace has the tip of a cone, exactly at a pole, a central difference along any axis is 0, which is
the subgradient of least length.
"""

import random
import struct
import sys

from formulas import *

N, C, D = 2, 3, 3
mp.dps = 600
STEP = mpf(10) ** -80


def bits(matrix):
    return " ".join(struct.pack(">d", v).hex() for row in matrix for v in row)


def fifty(values):
    return " ".join(nstr(v, 50) for v in values)


def normal(rng, rows):
    return [[rng.gauss(0, 1) for _ in range(D)] for _ in range(rows)]


def beside(rng, w, distance, opposite):
    """A vector at about this angle from w, or from -w."""
    t = [rng.gauss(0, 1) for _ in range(D)]
    along = sum(a * b for a, b in zip(w, t)) / sum(a * a for a in w)
    t = [b - along * a for a, b in zip(w, t)]
    ratio = (sum(a * a for a in w) / sum(b * b for b in t)) ** 0.5
    sign = -1 if opposite else 1
    return [1.5 * (sign * a + distance * ratio * b) for a, b in zip(w, t)]


def batches():
    rng = random.Random(16)
    weights, features = normal(rng, C), normal(rng, N)
    yield "ordinary", features, weights
    yield "next to the poles", [beside(rng, weights[0], 1e-9, False), beside(rng, weights[2], 1e-9, True)], weights
    yield "at the poles", [[2 * a for a in weights[0]], [-4 * a for a in weights[2]]], weights
    apart = [[1.0, 0.125, 0.0], [-0.5, 0.75, 0.25], [-1.0, 0.25, 0.5]]
    yield "confident", [[40.0, 4.5, 1.0], [-44.0, 3.0, 30.0]], apart
    factors = [2.0**-300, 2.0**-200]
    long = [[f * a for a in row] for f, row in zip(factors, features)]
    factors = [2.0**290, 2.0**-300, 2.0**100]
    yield "extreme norms", long, [[f * a for a in row] for f, row in zip(factors, weights)]


def differences(function, matrix):
    """The central differences of function(matrix), with steps relative to the rows, or to 1 for rows of zeros."""
    found = []
    for i, row in enumerate(matrix):
        step = STEP * (norm(row) or 1)
        for j in range(len(row)):
            ends = []
            for sign in (1, -1):
                moved = [list(r) for r in matrix]
                moved[i][j] += sign * step
                ends.append(function(moved))
            found.append((ends[0] - ends[1]) / (2 * step))
    return found


BIAS = [mpf(j) / 8 for j in range(C)]
LOSSES = {
    "softmax": (lambda x, w, y: linear(x, w, y, [0] * C), []),
    "softmax with bias": (lambda x, w, y, *b: linear(x, w, y, b), BIAS),
    "modified softmax": (free_norm(plain), []),
    "a-softmax 1": (free_norm(a_softmax(1)), []),
    "a-softmax 3": (free_norm(a_softmax(3)), []),
    "a-softmax 4": (free_norm(a_softmax(4)), []),
    "a-softmax 4 lambda 5": (free_norm(a_softmax(4, 5)), []),
    "normface 8": (unit_norm(plain), [mpf(8)]),
    "cosface 64 0.375": (unit_norm(combined(1, 0, "0.375")), [mpf(64)]),
    "arcface 64 0.5": (unit_norm(arc("0.5")), [mpf(64)]),
    "arcface 8 0.25": (unit_norm(arc("0.25")), [mpf(8)]),
    "arcface 64 0.5 linear": (unit_norm(arc("0.5", "linear")), [mpf(64)]),
    "arcface 64 0.5 smooth": (unit_norm(arc("0.5", "smooth")), [mpf(64)]),
    "arcface 64 0.5 joined": (unit_norm(arc("0.5", "joined")), [mpf(64)]),
    "arcface 64 0.5 cosine": (unit_norm(arc("0.5", "cosine")), [mpf(64)]),
    "arcface 64 0.5 easy": (unit_norm(arc("0.5", "easy")), [mpf(64)]),
    "combined 32 1.25 0.25 0.125": (unit_norm(combined("1.25", "0.25", "0.125")), [mpf(32)]),
}


def main():
    print("batch,loss name,features bits,weights bits,loss,features gradient,weights gradient,learnables gradient")
    labels = [0, 2]
    for batch, features, weights in batches():
        X, W = [[[mpf(v) for v in row] for row in matrix] for matrix in (features, weights)]
        inputs = [batch, None, bits(features), bits(weights)]
        for name, (logits, learnables) in LOSSES.items():
            at = lambda x, w, l: mean_loss(logits, x, w, labels, *l)
            columns = [
                [at(X, W, learnables)],
                differences(lambda x: at(x, W, learnables), X),
                differences(lambda w: at(X, w, learnables), W),
                differences(lambda l: at(X, W, l[0]), [learnables]) if learnables else [],
            ]
            print(*inputs[:1], name, *inputs[2:], *map(fifty, columns), sep=",")
            sys.stdout.flush()
        columns = [
            [center_loss(X, W, labels)],
            differences(lambda x: center_loss(x, W, labels), X),
            differences(lambda c: center_loss(X, c, labels), W),
            [],
        ]
        print(*inputs[:1], "center", *inputs[2:], *map(fifty, columns), sep=",")


if __name__ == "__main__":
    main()
