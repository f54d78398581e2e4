"""Load the orders of 100 days in 200 durable steps: kill it, and start it again.

python examples/etl.py [FOLDER] [--die-at STEP]
"""

import argparse
import csv
import hashlib
import os
import random
import signal
from pathlib import Path

from milepost import CheckpointManager

DAYS = 100
COUNTRIES = ("DE", "FR", "IT", "PL", "SE")


def generate(folder):
    """Write what a shop exports: a file of orders for each day."""
    folder.mkdir(parents=True, exist_ok=True)
    for day in range(DAYS):
        source = random.Random(day)
        with (folder / f"{day:03}.csv").open("w", newline="") as file:
            for order in range(source.randint(50, 150)):
                row = order, source.choice(COUNTRIES), source.randint(100, 99_999)
                csv.writer(file).writerow(row)


def extract(path):
    """Return the cents of each country in a file of orders."""
    found = dict.fromkeys(COUNTRIES, 0)
    with path.open(newline="") as file:
        for _, country, cents in csv.reader(file):
            found[country] += int(cents)
    return found


def load(totals, path):
    """Write the totals of a day whole or not at all; return their digest."""
    text = "".join(f"{country},{cents}\n" for country, cents in totals.items())
    path.with_suffix(".tmp").write_text(text)
    path.with_suffix(".tmp").replace(path)
    return hashlib.sha256(text.encode()).hexdigest()


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path, nargs="?", default="checkpoints")
    options.add_argument("--die-at", type=int, metavar="STEP")
    given = options.parse_args()
    source, target = given.folder / "orders", given.folder / "totals"
    generate(source)
    target.mkdir(exist_ok=True)
    ran = []

    def step(number, function, *args):
        """What is run as a step; maybe it dies after the work, before the result."""
        done = function(*args)
        if number == given.die_at:
            print(f"step {number}: killed, after {len(ran)} other steps", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        ran.append(number)
        return done

    store = CheckpointManager(given.folder / "store")
    with store, store.execution("etl", job_id="orders") as run:
        digest = hashlib.sha256()
        for day in range(DAYS):
            name, number = f"{day:03}.csv", 2 * day + 1
            totals = run.step("extract", step, number, extract, source / name)
            loaded = run.step("load", step, number + 1, load, totals, target / name)
            digest.update(loaded.encode())
        run.result = digest.hexdigest()
        attempt = f"attempt {run.attempt} ran {len(ran)} of {2 * DAYS} steps"
        print(f"{attempt}; checksum {run.result[:16]}")


if __name__ == "__main__":
    main()
