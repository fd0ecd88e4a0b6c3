# Every target sets itself up; the first time that builds llama.cpp, see scripts/setup.sh.
.NOTPARALLEL:
.PHONY: help setup models demo test lint bench clean

help:
	@echo 'make setup         .venv with everything in it; nothing is run'
	@echo 'make demo          two models share one room; then the daemon keeps serving (ONCE=1: ends after the story)'
	@echo 'make test          all checks: lint, then the tests with real models (ARGS="tests/core -x": pytest arguments)'
	@echo 'make lint          the static half: ruff, mypy, import-linter'
	@echo 'make bench         side-by-side measurements (ARGS="...": its arguments)'
	@echo 'make clean         remove .venv and caches in this folder; models and built wheels stay in the user'\''s cache'
	@echo 'PYTHON=python3.12  the interpreter to build .venv with;  CMAKE_ARGS="-D..."  how to build llama.cpp'

setup:
	@scripts/setup.sh

models: setup
	@.venv/bin/python -m swapd.demo.models

demo: setup
	@.venv/bin/swapd demo $(if $(ONCE),--once)

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

test: lint models
	.venv/bin/python -m pytest $(ARGS)

bench: setup
	.venv/bin/python -m benchmarks $(ARGS)

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
