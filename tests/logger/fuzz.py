"""Draws streams of bytes for proxy and predictor, as long as one likes: `python -m tests.logger.fuzz --seconds 600`."""

from __future__ import annotations

import argparse
import sys
import time

from hypothesis import HealthCheck, settings

from tests.inference.grpc import promises as predictor
from tests.logger.grpc import promises as grpc
from tests.logger.promises import PROMISES

_ROUND = 500


def main() -> None:
    """Give each promise its time; a broken one ends the run with the smallest bytes that break it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="for each promise (default: 600)")
    parser.add_argument("--only", default="", metavar="PART", help="promises with this in their name (default: all)")
    arguments = parser.parse_args()
    rounds = settings(max_examples=_ROUND, deadline=None, suppress_health_check=list(HealthCheck))
    for promise in (*PROMISES, *grpc.PROMISES, *predictor.PROMISES):
        if arguments.only not in promise.__name__:
            continue
        draw, drawn, end = rounds(promise), 0, time.monotonic() + arguments.seconds
        while time.monotonic() < end:
            draw()
            drawn += _ROUND
        sys.stdout.write(f"{promise.__name__}: {drawn:,} draws held in {arguments.seconds:.0f} s\n")


if __name__ == "__main__":
    main()
