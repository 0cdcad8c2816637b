#!/usr/bin/env python3
"""PyTorch on the cases of the gallery's figure of cost, in the lines that benches/peers/torch_heads.py prints:

    python gallery/torch_sweep.py > torch.txt
    cargo run --release --manifest-path gallery/Cargo.toml -- --only cost --peers torch.txt

Time and memory of each peer have a process of their own, so that no peer inherits the memory of another. `extra_mib` is
the peak of a second step beyond what the process held without gradients: compilers and lazy loading fall on the first,
and the allocator is told to give back what is freed. Times are the least processor times of interleaved repetitions on one
thread, as in the figure. Linux only, for the peak comes from /proc.
"""

import gc
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROWS, DIM = 256, 512
CASES = {1_000: 61, 3_000: 31, 10_000: 15, 30_000: 9, 100_000: 5}
RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
PEERS = ["eager", "compiled", "linear_cross_entropy(softmax)"]


def memory_mib(key):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"no {key} in /proc/self/status")


def measure(what, peer, classes):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benches" / "peers"))
    import torch
    import torch.nn.functional as F
    import torch_heads

    torch.set_num_threads(1)
    statistics.median = min
    time.perf_counter = time.process_time
    torch.manual_seed(1)
    losses = {
        "eager": torch_heads.arc_face,
        "compiled": torch.compile(torch_heads.arc_face),
        "linear_cross_entropy(softmax)": torch_heads.linear,
    }
    features = torch.randn(ROWS, DIM, requires_grad=True)
    weights = F.normalize(torch.randn(classes, DIM)).requires_grad_()
    labels = torch.arange(ROWS) * 7919 % classes
    run = torch_heads.step(losses[peer], features, weights, labels)
    run()
    if what == "memory":
        features.grad = weights.grad = None
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        before = memory_mib("VmRSS:")
        run()
        print(f"extra_mib={memory_mib('VmHWM:') - before:.1f}")
    else:
        floor, seconds = torch_heads.medians(CASES[classes], torch_heads.products(features, weights), run)
        print(
            f"case=gallery peer={peer} n={ROWS} classes={classes} dim={DIM} ratio={seconds / floor:.2f} "
            f"threads={torch.get_num_threads()} seconds={seconds:.5f} products_seconds={floor:.5f}"
        )


def main():
    for classes in CASES:
        for peer in PEERS:
            line = []
            for what, environment in [("time", {}), ("memory", RETURN_MEMORY)]:
                command = [sys.executable, __file__, what, peer, str(classes)]
                result = subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True)
                line.append(result.stdout.strip())
            print(*line, flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        main()
