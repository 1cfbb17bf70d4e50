# Everything on a fresh machine: `make demo` sets up and runs the main job, `make test` sets up and passes the tests.
PYTHON ?= python3
BIN := .venv/bin
# Small models: a second thread of torch mostly waits, and on a busy machine it waits for long.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
STAMP := .venv/.installed
TREE := build/tree

.PHONY: demo test check setup slow

demo: setup
	$(BIN)/ctl demo $(ARGS)

test: setup
	$(PYTEST) -n auto --dist loadfile

slow: setup
	$(PYTEST) -m slow

# mypy sees the packages under their installed names through links.
check: setup
	$(BIN)/ruff format --check controller backends probes calibration tests examples
	$(BIN)/ruff check controller backends probes calibration tests examples
	mkdir -p $(TREE)/reasonctl
	for package in controller backends probes calibration; do ln -sfn ../../../$$package $(TREE)/reasonctl/$$package; done
	MYPYPATH=$(TREE) $(BIN)/mypy -p reasonctl.controller -p reasonctl.backends -p reasonctl.probes -p reasonctl.calibration

setup: $(STAMP)

# torch first and pinned: on a CPU-only machine a bare `torch` brings gigabytes of CUDA.
# xgrammar (the extra `grammar`) without its dependency triton, 200 MB of GPU compiler that a CPU never loads.
# llama-cpp-python is compiled here (about 10 minutes on 2 cores); pip keeps the wheel.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/pip install -q -c constraints.txt -e '.[llama,test]'
	$(BIN)/pip install -q -c constraints.txt --no-deps xgrammar apache-tvm-ffi
	touch $(STAMP)
