"""Train a small network; keep the best three and the last two checkpoints.

python examples/training.py [FOLDER] [--die-at EPOCH]
"""

import argparse
import hashlib
import os
import signal

import numpy as np

from milepost import Best, CheckpointManager, Policy, Types

EPOCHS, RATE, BATCH = 16, 0.12, 32
POLICY = Policy(name="training", keep_last=2, keep_best=Best("loss", "min", 3))


def data():
    """Return points of two interleaved arcs, and which arc each is on."""
    source = np.random.default_rng(1)
    angle = source.uniform(0, np.pi, 400)
    kind = np.arange(400) % 2
    x = np.where(kind, 1 - np.cos(angle), np.cos(angle))
    y = np.where(kind, 0.5 - np.sin(angle), np.sin(angle))
    return np.stack([x, y], axis=1) + source.normal(0, 0.1, (400, 2)), kind


def epoch(points, kinds, weights, rng):
    """Change the weights by a pass over the points in random order; return the loss."""
    first, second = weights["first"], weights["second"]
    total = 0.0
    for batch in np.split(rng.permutation(len(points)), range(BATCH, 400, BATCH)):
        hidden = np.tanh(points[batch] @ first)
        guess = 1 / (1 + np.exp(-hidden @ second))
        error = guess - kinds[batch]
        total -= np.log(np.where(kinds[batch], guess, 1 - guess)).sum()
        back = np.outer(error, second) * (1 - hidden**2)
        second -= RATE * hidden.T @ error
        first -= RATE * points[batch].T @ back
    return float(total / len(points))


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", nargs="?", default="checkpoints")
    options.add_argument("--die-at", type=int, metavar="EPOCH")
    given = options.parse_args()
    manager = CheckpointManager(given.folder, types=Types())
    rng = np.random.default_rng(7)
    weights = {"first": rng.normal(size=(2, 16)), "second": rng.normal(size=16)}
    begin = {"epoch": 0, "weights": weights, "rng": rng.bit_generator.state}
    state = manager.load("train", default=begin)
    weights, rng.bit_generator.state = state["weights"], state["rng"]
    print(f"from epoch {state['epoch']}")
    points, kinds = data()
    for number in range(state["epoch"] + 1, EPOCHS + 1):
        loss = epoch(points, kinds, weights, rng)
        if number == given.die_at:
            print(f"epoch {number}: killed", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        state = {"epoch": number, "weights": weights, "rng": rng.bit_generator.state}
        manager.save("train", f"epoch-{number:02}", state, metadata={"loss": loss})
        manager.apply(manager.plan("train", POLICY))
    for kept in manager.list("train"):
        print(f"kept {kept.step_name}, loss {kept.metadata['loss']:.4f}")
    digest = hashlib.sha256(b"".join(w.tobytes() for w in weights.values()))
    print(f"weights {digest.hexdigest()[:16]}")


if __name__ == "__main__":
    main()
