# Everything runs in .venv, which is made once and remade when the dependencies change.
PYTHON ?= python3
PY := .venv/bin/python
INSTALL := $(PY) -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.DELETE_ON_ERROR:
.PHONY: help demo docs test test-slow test-nightly test-pythons check clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

.venv/bin/python:
	@echo "make: creating .venv"
	@$(PYTHON) -m venv .venv

.venv/.demo: pyproject.toml constraints.txt | .venv/bin/python
	@echo "make: installing the project and its pinned dependencies into .venv (about 6 GB, minutes)"
	@$(INSTALL) --editable ".[demo]"
	@touch $@

.venv/.test: .venv/.demo
	@echo "make: installing the test dependencies into .venv"
	@$(INSTALL) --editable ".[test]"
	@touch $@

.venv/.docs: .venv/.demo
	@echo "make: installing what builds the site into .venv"
	@$(INSTALL) --editable ".[docs]"
	@touch $@

demo: .venv/.demo  ## finetune resnest14d on scikit-learn's digits, on the CPU
	@echo "make: finetuning resnest14d from scratch on 1,797 handwritten digits"
	@$(PY) -m finetune --model resnest14d --dataset digits --no-pretrained --image-size 32 --epochs 12 --hflip 0 --accelerator cpu

check: .venv/.test  ## ruff and mypy
	@echo "make: ruff"
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@echo "make: mypy"
	@.venv/bin/mypy

docs: .venv/.docs  ## the site, in site/, from README, docs/ and the code; needs no network
	@echo "make: building site/"
	@$(PY) docs/pages.py
	@.venv/bin/zensical build --strict --clean

test: .venv/.test  ## every test but the long ones
	@echo "make: pytest"
	@.venv/bin/pytest -m "not slow"

test-slow: .venv/.test  ## the long ones: whole trainings, several processes, runs that are killed and go on
	@echo "make: pytest, long tests"
	@.venv/bin/pytest -m slow

test-nightly: .venv/.test  ## what takes long and seldom breaks: runs that an earlier version made go on; timm's own tests with TIMM_SOURCE=CLONE; other Pythons
	@echo "make: run folders of an earlier version"
	@$(PY) tests/old_runs.py
	@echo "make: timm's own tests of its models, of ours"
	@$(PY) tests/timm_suite.py
	@$(MAKE) --no-print-directory test-pythons

test-pythons:  ## `make test` on a clean clone with each other supported Python that is found, some 20 minutes each
	@for python in python3.12 python3.13; do \
	    if ! $$python --version >/dev/null 2>&1; then echo "make: no $$python: not tested"; continue; fi; \
	    echo "make: tests with $$python, of what is committed"; \
	    rm -rf build/$$python && git clone --quiet . build/$$python && \
	    $(MAKE) --directory build/$$python test PYTHON=$$python || exit 1; \
	done

clean:  ## remove .venv and caches
	rm -rf .venv .cache build site dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
