# The targets a person types. Everything lands in .venv/ and build/; nothing else is touched.
PYTHON ?= python3
BIN := .venv/bin
DEMO_ARGS ?=
EDGEFL_FAULT_SEEDS ?= 100000
SOURCES := setup.py pyproject.toml $(wildcard csrc/sources.txt csrc/include/*.h csrc/src/*.[ch] csrc/src/*/*.[ch] edgefl/kernels/*.pyx edgefl/kernels/*.pxd)

.PHONY: help demo test check test-c test-python test-long proto format wheels clean

help:
	@echo "make demo     the whole loop on real data: a server, ten devices, one released model (DEMO_ARGS=--help)"
	@echo "make test     every check and test: lint, types, import layers, C under sanitizers, Python"
	@echo "make test-long  EDGEFL_FAULT_SEEDS=100000 simulated runs of everything that dies; goes on where it was stopped"
	@echo "make check    lint, types, import layers, formatting, stubs"
	@echo "make proto    regenerate the protobuf stubs (Python 3.11)"
	@echo "make format   format C and Python"
	@echo "make wheels   a wheel for this machine, in dist/"
	@echo "make clean    remove build/, dist/ and the compiled kernel (not .venv/)"

.venv/bin/python:
	$(PYTHON) -m venv .venv

# Two stamps: the demo needs less than the tests. An edited C or Cython source rebuilds the kernel.
.venv/sim.stamp: .venv/bin/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --editable '.[sim]'
	touch $@

.venv/dev.stamp: .venv/bin/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ .venv/sim.stamp

demo: .venv/sim.stamp
	$(BIN)/edgefl demo --out build/demo $(DEMO_ARGS)

test: check test-c test-python

check: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/clang-format --dry-run --Werror $(wildcard csrc/*/*.[ch])
	$(BIN)/python protos/generate.py --check

# The C tests alone, without Python, under AddressSanitizer and UndefinedBehaviorSanitizer.
test-c: .venv/dev.stamp
	$(BIN)/cmake -S . -B build/c-sanitized -DCMAKE_BUILD_TYPE=RelWithDebInfo -DEDGEFL_SANITIZE=ON
	$(BIN)/cmake --build build/c-sanitized --parallel 2
	$(BIN)/ctest --test-dir build/c-sanitized --output-on-failure

test-python: .venv/dev.stamp
	$(BIN)/python -m pytest

test-long: .venv/dev.stamp
	PYTHONPATH=tests $(BIN)/python -m faults.run --seeds $(EDGEFL_FAULT_SEEDS) --state build/fault-seeds.json

proto:
	$(PYTHON) protos/generate.py

format: .venv/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(wildcard csrc/*/*.[ch])

wheels: .venv/bin/python
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf build dist edgefl/kernels/*.so edgefl/kernels/_kernels.c
