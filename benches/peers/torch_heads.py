#!/usr/bin/env python3
"""ArcFace's forward and backward in PyTorch, on the cases of benches/floor.rs: eager, compiled, and (as plain softmax,
which is less work) torch's chunked linear cross-entropy. For whoever has PyTorch installed:

    python benches/peers/torch_heads.py              # cases A to D
    python benches/peers/torch_heads.py A --threads 2

Each line is of the form that `cargo bench --bench floor` prints; `ratio` is over three bare torch products, measured in
turn with it. Every line comes from a process of its own, so that no peer inherits the memory of another; `extra_mib` is the
peak of a second step beyond what the process held without gradients, read from /proc, and left out where there is none.
"""

import argparse
import gc
import multiprocessing
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F

CASES = {
    "A": (256, 100_000, 512, 5),
    "B": (256, 10_000, 512, 21),
    "C": (64, 100_000, 128, 21),
    "D": (128, 1_000, 128, 201),
    "E": (256, 1_000_000, 128, 3),
}
SCALE, MARGIN = 64.0, 0.5


def arc_face(features, weights, labels):
    cosines = F.linear(F.normalize(features), F.normalize(weights))
    rows = torch.arange(len(labels))
    angle = torch.acos(cosines[rows, labels].clamp(-1 + 1e-7, 1 - 1e-7))
    logits = cosines.index_put((rows, labels), torch.cos(angle + MARGIN))
    return F.cross_entropy(SCALE * logits, labels)


def linear(features, weights, labels):
    return F.linear_cross_entropy(features, weights, labels)


def step(loss, features, weights, labels):
    def run():
        features.grad = weights.grad = None
        loss(features, weights, labels).backward()

    return run


def products(features, weights):
    with torch.no_grad():
        logits = features @ weights.T
        out_features, out_weights = torch.empty_like(features), torch.empty_like(weights)

    def run():
        with torch.no_grad():
            torch.mm(features, weights.T, out=logits)
            torch.mm(logits, weights, out=out_features)
            torch.mm(logits.T, features, out=out_weights)

    return run


def medians(repetitions, *tasks):
    times = [[] for _ in tasks]
    for repetition in range(repetitions + 1):
        for task, seconds in zip(tasks, times):
            start = time.perf_counter()
            task()
            if repetition:
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]


def memory_mib(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def extra_mib(run, features, weights):
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return ""
    features.grad = weights.grad = None
    gc.collect()
    reset.write_text("5")
    before = memory_mib("VmRSS:")
    run()
    return f"extra_mib={memory_mib('VmHWM:') - before:.0f} "


def peers():
    known = {"eager": arc_face, "compiled": torch.compile(arc_face)}
    if hasattr(F, "linear_cross_entropy"):
        known["linear_cross_entropy(softmax)"] = linear
    return known


def measure(name, peer, threads):
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    rows, classes, dim, repetitions = CASES[name]
    features = torch.randn(rows, dim, requires_grad=True)
    weights = F.normalize(torch.randn(classes, dim)).requires_grad_()
    labels = torch.arange(rows) * 7919 % classes
    run = step(peers()[peer], features, weights, labels)
    try:
        run()
    except Exception as error:  # a compiler that is not there, say
        print(f"case={name} peer={peer} failed: {str(error).splitlines()[0]}")
        return
    extra = extra_mib(run, features, weights)
    floor, seconds = medians(repetitions, products(features, weights), run)
    print(
        f"case={name} peer={peer} n={rows} classes={classes} dim={dim} ratio={seconds / floor:.2f} "
        f"{extra}threads={threads} seconds={seconds:.4f} products_seconds={floor:.4f}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], default=[], help="A to E; all but E if none is named")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    for name in arguments.cases or "ABCD":
        for peer in peers():
            task = (name, peer, arguments.threads)
            process = multiprocessing.get_context("spawn").Process(target=measure, args=task)
            process.start()
            process.join()


if __name__ == "__main__":
    main()
