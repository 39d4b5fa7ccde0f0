"""Rows per second and microseconds per row of each detector; the mean of the same batch is the floor.

python benchmarks/bench_detectors.py [ROWS]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from detectors import examples
from detectors.base import Rows
from detectors.registry import LIBRARY

BATCHES = (1, 32, 256)


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="?", type=int, default=20_000, help="how many (default: %(default)s)")
    count = parser.parse_args().rows
    rows = examples.rows(0, count)
    print(f"{count} rows of four columns; us per row (times the mean of the same batch)")
    print(f"{'':<22}" + "".join(f"{f'batch {size}':>22}" for size in BATCHES) + f"{'rows/s':>14}")
    floor = [cost(mean, rows, size) for size in BATCHES]
    print(f"{'mean of x (floor)':<22}" + "".join(f"{us:>22.2f}" for us in floor))
    for name in LIBRARY.names():
        detector = LIBRARY.find(name).example()
        costs = [cost(detector.observe, rows, size) for size in BATCHES]
        cells = "".join(f"{f'{us:.2f} ({us / base:.1f}x)':>22}" for us, base in zip(costs, floor, strict=True))
        print(f"{name:<22}{cells}{1e6 / costs[-1]:>14,.0f}")
    return 0


def mean(rows: Rows) -> object:
    """Look at a batch once."""
    return rows.columns["x"].mean()


def cost(observe: Callable[[Rows], object], rows: Rows, size: int) -> float:
    """Give CPU microseconds per row."""
    parts = [rows[at : at + size] for at in range(0, len(rows), size)]
    began = time.process_time()
    for part in parts:
        observe(part)
    return (time.process_time() - began) / len(rows) * 1e6


if __name__ == "__main__":
    sys.exit(main())
