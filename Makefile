# `make` alone tells what there is. .ci/venv makes the environment and keeps it fresh.
.DEFAULT_GOAL := help
.PHONY: help train test lint clean
export PYTHON

CONFIG ?= configs/robult.py
# Two processes, a file of tests each: XLA compiles most of the time, on one core.
WORKERS ?= -n 2 --dist loadfile
in_venv := .venv/bin/python

help:
	@echo 'make train   train, then print the robustness table and write the report'
	@echo '             CONFIG=configs/fusion.py for another experiment'
	@echo '             ARGS="--config.train.steps=800" for more flags'
	@echo 'make test    run the tests; ARGS="-k missing" for some of them'
	@echo 'make lint    check style and format'
	@echo 'make clean   remove the environment and caches; runs/ stays'
	@echo
	@echo 'Each makes .venv when it has to. PYTHON=/path/to/python picks another Python.'

train:
	@sh .ci/venv
	$(in_venv) launch/train.py --config $(CONFIG) $(ARGS)

test:
	@sh .ci/venv dev
	$(in_venv) -m pytest $(WORKERS) $(ARGS)

lint:
	@sh .ci/venv dev
	$(in_venv) -m ruff check .
	$(in_venv) -m ruff format --check .

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
