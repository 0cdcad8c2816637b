"""Writes check_values.csv: each loss, with all its gradients, on the small batch that tests/quick/check_values.rs describes.

    python3 check_values.py > check_values.csv
"""

from formulas import *

N, C, D = 3, 5, 4
X = [[sin(mpf(1 + 4 * i + j)) for j in range(D)] for i in range(N)]
W = [[cos(mpf("0.5") + mpf("1.3") * i + mpf("0.7") * j) for j in range(D)] for i in range(C)]
CENTERS = [[mpf("0.3") * sin(mpf(i - j)) for j in range(D)] for i in range(C)]
BIAS = [mpf(j) / 10 for j in range(C)]

# name: (logits, the learnables as they stand)
LOSSES = {
    "softmax": (lambda x, w, y: linear(x, w, y, [0] * C), None),
    "softmax with bias": (lambda x, w, y, *b: linear(x, w, y, b), BIAS),
    "modified softmax": (free_norm(plain), None),
    "a-softmax 2": (free_norm(a_softmax(2)), None),
    "a-softmax 3": (free_norm(a_softmax(3)), None),
    "a-softmax 4": (free_norm(a_softmax(4)), None),
    "a-softmax 4 lambda 5": (free_norm(a_softmax(4, 5)), None),
    "normface 1": (unit_norm(plain), [mpf(1)]),
    "normface 10": (unit_norm(plain), [mpf(10)]),
    "am-softmax 30 0.35": (unit_norm(combined(1, 0, "0.35")), [mpf(30)]),
    "cosface 64 0.35": (unit_norm(combined(1, 0, "0.35")), [mpf(64)]),
    "cosface 64 0.4": (unit_norm(combined(1, 0, "0.4")), [mpf(64)]),
    "arcface 64 0.5": (unit_norm(arc("0.5")), [mpf(64)]),
    "arcface 64 0.5 linear tail": (unit_norm(arc("0.5", "linear")), [mpf(64)]),
    "arcface 64 0.5 smooth tail": (unit_norm(arc("0.5", "smooth")), [mpf(64)]),
    "arcface 64 0.5 joined tail": (unit_norm(arc("0.5", "joined")), [mpf(64)]),
    "arcface 64 0.5 cosine tail": (unit_norm(arc("0.5", "cosine")), [mpf(64)]),
    "arcface 64 0.5 easy margin": (unit_norm(arc("0.5", "easy")), [mpf(64)]),
    "combined 64 1 0.3 0.2": (unit_norm(combined(1, "0.3", "0.2")), [mpf(64)]),
    "combined 64 0.9 0.4 0.15": (unit_norm(combined("0.9", "0.4", "0.15")), [mpf(64)]),
}

print("labels,loss name,loss,features gradient,weights gradient,learnables gradient")
for labels in ([0, 3, 2], [2, 0, 3]):
    for name, (logits, learnables) in LOSSES.items():
        inner = learnables or []
        loss = mean_loss(logits, X, W, labels, *inner)
        by_features = gradient(lambda x: mean_loss(logits, x, W, labels, *inner), X)
        by_weights = gradient(lambda w: mean_loss(logits, X, w, labels, *inner), W)
        by_learnables = (
            gradient(lambda l: mean_loss(logits, X, W, labels, *l[0]), [inner]) if inner else []
        )
        columns = [[loss], by_features, by_weights, by_learnables]
        print(" ".join(map(str, labels)), name, *map(digits, columns), sep=",")
    loss = center_loss(X, CENTERS, labels)
    by_features = gradient(lambda x: center_loss(x, CENTERS, labels), X)
    by_centers = gradient(lambda c: center_loss(X, c, labels), CENTERS)
    print(
        " ".join(map(str, labels)), "center", *map(digits, [[loss], by_features, by_centers, []]), sep=","
    )
