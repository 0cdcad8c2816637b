"""Writes poles.csv: ArcFace (m = 0.5) for pairs of vectors next to the angles 0 and π: in f32 at 1e-7 … 1e-1 from them, and
in f64 at 1e-15 … 1e-1.

    python3 poles.py > poles.csv

A pair is a feature x and the weight w of its class, given by the bits of their entries, which are taken as exact.
There is one other class, so that the softmax has something to say. Either its weight stands on an axis of its own, on
which x and w are zero ("axis"), or it is x / 8 ("copy"). In both cases it adds nothing to the gradient by x within the
space of x and w, so that what is tabulated there is the term of the target alone.
"""

import random
import struct

from formulas import *


def bits(vector, code):
    return " ".join(struct.pack(">" + code, v).hex() for v in vector)


def pair(rng, dimension, distance, opposite, code):
    """|x| near 20, |w| near 0.3, at about this distance from the pole; rounding moves the angle a little."""

    def rounded(value):
        return struct.unpack(">" + code, struct.pack(">" + code, value))[0]

    x = [rng.gauss(0, 1) for _ in range(dimension)]
    t = [rng.gauss(0, 1) for _ in range(dimension)]
    length = sum(v * v for v in x) ** 0.5
    x = [rounded(20 * v / length) for v in x]
    length = sum(v * v for v in x) ** 0.5
    along = sum(a * b for a, b in zip(x, t)) / length**2
    t = [b - along * a for a, b in zip(x, t)]
    across = sum(v * v for v in t) ** 0.5
    sign = -1 if opposite else 1
    w = [
        rounded(0.3 * (sign * mp.cos(distance) * a / length + mp.sin(distance) * b / across))
        for a, b in zip(x, t)
    ]
    return x, w


def main():
    rng = random.Random(20190209)
    print("type,past pi,other class,scale,dimension,x bits,w bits,target logit,x gradient,w gradient")
    distances = [("f", exponent) for exponent in range(-7, 0)]
    distances += [("d", exponent) for exponent in (-15, -14, -12, -9, -6, -3, -1)]
    for opposite in (False, True):
        for code, exponent in distances:
            wide = {"f": 33, "d": 12}[code]
            setups = [("paper", "axis", 1, 8), ("paper", "axis", 1, wide)]
            if opposite:
                setups += [("paper", "axis", 64, 8), ("smooth", "axis", 64, 8), ("smooth", "axis", 1, 8)]
            else:
                setups += [("paper", "copy", 64, 8), ("paper", "copy", 64, wide)]
            for rule, rival, scale, dimension in setups:
                x, w = pair(rng, dimension, 10.0**exponent, opposite, code)
                xs, ws = list(map(mpf, x)), list(map(mpf, w))
                psi = arc("0.5", rule)
                rival_cosine = (lambda x: mpf(0)) if rival == "axis" else (lambda x: cosine(x, xs))

                def loss(x, w):
                    logits = [scale * psi(angle(x, w)), scale * rival_cosine(x)]
                    return cross_entropy(logits, 0)

                by_x = gradient(lambda moved: loss(moved[0], ws), [xs])
                by_w = gradient(lambda moved: loss(xs, moved[0]), [ws])
                logit = [scale * psi(angle(xs, ws))]
                inputs = [bits(x, code), bits(w, code)]
                name = {"f": "f32", "d": "f64"}[code]
                outputs = map(digits, [logit, by_x, by_w])
                print(name, rule, rival, scale, dimension, *inputs, *outputs, sep=",")


if __name__ == "__main__":
    main()
