"""`python -m swapd.worker --fd N`: N is one end of a Unix stream socket inherited from the daemon."""

from __future__ import annotations

import argparse

from swapd.worker import lifeline

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="swapd.worker", description="holds one model for the swapd daemon")
    parser.add_argument("--fd", type=int, required=True, help="inherited Unix stream socket to the daemon")
    connection = lifeline.tie(parser.parse_args().fd)
    from swapd.worker.child import main  # llama.cpp takes a while: not before the lifeline holds

    main(connection)
