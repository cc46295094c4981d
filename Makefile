# `make` alone lists the targets. .ci/venv makes the environment and keeps it up to date.
.DEFAULT_GOAL := help
.PHONY: help train test wheel-test docs lint clean
export PYTHON

CONFIG ?= robult
# Two processes, a file of tests each: XLA compiles most of the time, on one core. In the order of
# names: with the most tests first, as is the default, files of one long test are the last.
WORKERS ?= -n 2 --dist loadfile --no-loadscope-reorder
in_venv := .venv/bin/python
wheel_venv := build/wheel-venv

help:
	@echo 'make train       train, then print the robustness table and write the report'
	@echo '                 CONFIG=fusion for another experiment'
	@echo '                 ARGS="--config.train.steps=800" for more flags'
	@echo 'make test        run the tests; ARGS="-k missing" for some of them'
	@echo 'make wheel-test  build the wheel, install it elsewhere and train with it'
	@echo 'make docs        build the documentation into build/docs'
	@echo 'make lint        check style and format'
	@echo 'make clean       remove the environment and caches; runs/ stays'
	@echo
	@echo 'Each makes .venv when it has to. PYTHON=/path/to/python picks another Python.'

# Large pages: training on sequences takes 10 to 16 % less time on CPUs with glibc.
train: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
train:
	@sh .ci/venv
	$(in_venv) launch/train.py --config $(CONFIG) $(ARGS)

test:
	@sh .ci/venv dev
	$(in_venv) -m pytest $(WORKERS) $(ARGS)

wheel-test:
	@sh .ci/venv dev
	rm -rf build/lib $(wheel_venv) build/elsewhere dist
	$(in_venv) -m build --wheel
	$(in_venv) -m venv $(wheel_venv)
	$(wheel_venv)/bin/python -m pip install --quiet --disable-pip-version-check \
	  -c constraints.txt dist/*.whl
	mkdir -p build/elsewhere
	cd build/elsewhere && ../wheel-venv/bin/promise-jax list methods
	cd build/elsewhere && ../wheel-venv/bin/promise-jax train --config robult:preset=tiny
	! $(wheel_venv)/bin/promise-jax benchmark

docs:
	@sh .ci/venv dev
	$(in_venv) -m sphinx -W --keep-going -q docs build/docs

lint:
	@sh .ci/venv dev
	$(in_venv) -m ruff check .
	$(in_venv) -m ruff format --check .

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
