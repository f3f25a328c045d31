"""`python -m shoal.worker`, which the head starts; not for use by hand."""

from __future__ import annotations

import argparse
import sys

from shoal.worker.process.local import work


def main() -> int:
    """Exit status: 0 after Shutdown, 1 after an error that was reported to the head."""
    parser = argparse.ArgumentParser(prog="shoal.worker", description=__doc__)
    parser.add_argument("--control", type=int, required=True, help="file descriptor of the socket to the head")
    parser.add_argument(
        "--handover",
        type=int,
        required=True,
        help="file descriptor of the socket that those of the links come over",
    )
    arguments = parser.parse_args()
    return work(arguments.control, arguments.handover)


if __name__ == "__main__":
    sys.exit(main())
