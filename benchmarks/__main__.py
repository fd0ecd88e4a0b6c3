"""Run the measurements: `python -m benchmarks [streams lab …]`.

LLAMA_SERVER names a llama-server to compare with (built from llama-cpp-python's source package, say);
without one the figures of swapd stand alone.
"""

from __future__ import annotations

import argparse

from benchmarks import adapters, conversation, cost, decisions, endurance, lab, speculation, streams, swap

MEASUREMENTS = {
    "streams": streams.main,
    "cost": cost.main,
    "swap": swap.main,
    "conversation": conversation.main,
    "adapters": adapters.main,
    "speculation": speculation.main,
    "endurance": endurance.main,
    "lab": lab.main,
    "decisions": decisions.main,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *MEASUREMENTS], help="which; all by default")
    for name in parser.parse_args().names or MEASUREMENTS:
        MEASUREMENTS[name]()


main()
