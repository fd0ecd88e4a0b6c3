"""Side-by-side measurements; never run by the tests. `python -m benchmarks` or `make bench`."""
