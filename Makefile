# The targets a person types. Everything lands in .venv/ and build/; nothing else is touched.
PYTHON ?= python3
BIN := .venv/bin
DEMO_ARGS ?=
EDGEFL_FAULT_SEEDS ?= 100000
TEST_WORKERS ?= auto
FUZZ_SECONDS ?= 60
# One name at a time: dash's command -v looks at the first one only.
CLANG ?= $(firstword $(foreach name,clang clang-19 clang-18 clang-17 clang-16 clang-15 clang-14,$(shell command -v $(name))))
SOURCES := setup.py pyproject.toml $(wildcard csrc/sources.txt csrc/flags.txt csrc/include/*.h csrc/src/*.[ch] csrc/src/*/*.[ch] edgefl/kernels/*.pyx edgefl/kernels/*.pxi edgefl/kernels/*.pxd)

.PHONY: help demo test check test-c test-python test-optimized test-long fuzz golden bench-kernel bench-reports bench-rounds bench-simulation bench-learning test-arm bench-arm proto lock lock-check format wheels clean

help:
	@echo "make demo     the whole loop on real data: a server, ten devices, one released model (DEMO_ARGS=--help)"
	@echo "make test     every check and test: lint, types, import layers, C under sanitizers, Python"
	@echo "make test-long  EDGEFL_FAULT_SEEDS=100000 runs of the fault simulation (edgefl simulate --faults); goes on where it was stopped"
	@echo "make test-optimized  the Python tests under python -O, which leaves every assert of the product out"
	@echo "make check    lint, types, import layers, formatting, stubs (-j2: two at a time)"
	@echo "make bench-kernel  the kernel next to its peers, on one core (PEERS_PYTHON=, BENCH_ARGS=; docs/benchmarks.md)"
	@echo "make bench-reports  durable reports per second, compared with a bare gRPC echo (BENCH_ARGS=)"
	@echo "make bench-rounds  what a report costs the round machine, in rounds of 1,000 to 16,000 (BENCH_ARGS=)"
	@echo "make bench-simulation  simulated rounds per core, compared with the kernel alone and NumPy (BENCH_ARGS=)"
	@echo "make bench-learning  what the algorithms reach on real data, with spread over seeds and people (BENCH_ARGS=)"
	@echo "make golden   write tests/golden/kernel.txt anew: only when the arithmetic is meant to change"
	@echo "make test-arm  the C tests on emulated aarch64 and ARMv7 (cross compilers, clang and QEMU; it names what is missing)"
	@echo "make bench-arm  ARM instructions per example of a training step"
	@echo "make proto    regenerate the protobuf stubs (Python 3.11)"
	@echo "make lock     pin the development environment anew, one file per Python (tests/locks)"
	@echo "make fuzz     every C entry under libFuzzer, FUZZ_SECONDS=60 each (needs clang)"
	@echo "make format   format C and Python"
	@echo "make wheels   a wheel for this machine, in dist/"
	@echo "make clean    remove build/, dist/ and the compiled kernel (not .venv/)"

# The pins of this Python. uv installs in seconds what takes pip a minute, and shows how far it is; with every package
# pinned there is nothing to search. UV_DEFAULT_INDEX names another package index: uv does not read pip's configuration.
LOCKS := $(wildcard tests/locks/*.txt)
LOCK = tests/locks/python$(shell $(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt
INSTALL = $(BIN)/uv pip install --python $(BIN)/python --constraint $(LOCK)

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/bin/uv: .venv/bin/python
	@test -f $(LOCK) || { echo "there is no $(LOCK): name a Python that has one (PYTHON=python3.13), or write it: PYTHONS in tests/locks/lock.py" >&2; exit 1; }
	$(BIN)/python -m pip install --no-compile --constraint $(LOCK) uv
	touch $@

# An edited C or Cython source rebuilds the kernel, and nothing else does.
.venv/kernel.stamp: .venv/bin/uv $(SOURCES)
	$(INSTALL) --no-deps --reinstall-package edgefl-fleet --editable .
	touch $@

# The demo needs less than the tests.
.venv/sim.stamp: .venv/kernel.stamp pyproject.toml $(LOCKS)
	$(INSTALL) --requirement pyproject.toml --extra sim
	touch $@

.venv/dev.stamp: .venv/kernel.stamp pyproject.toml $(LOCKS)
	$(INSTALL) --requirement pyproject.toml --extra dev
	touch $@ .venv/sim.stamp

# Newer releases of everything; pyproject.toml says what is allowed. lock-check: .ci/run.
lock: .venv/bin/uv
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tests/locks/lock.py

lock-check: .venv/dev.stamp
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tests/locks/lock.py --check
	$(BIN)/uv pip check --python $(BIN)/python

demo: .venv/sim.stamp
	$(BIN)/edgefl demo --out build/demo $(DEMO_ARGS)

# The checks run next to the C build, and each prints in one piece when it has ended. The Python tests come last: they
# take every core themselves, and show how far they are.
test: .venv/dev.stamp
	+@$(MAKE) --no-print-directory --jobs=2 --output-sync=target test-c check
	+@$(MAKE) --no-print-directory test-python

# Parts that do not depend on each other (make -j2 check).
CHECKS := check-types check-style check-imports check-c check-stubs
.PHONY: $(CHECKS)
check: $(CHECKS)

# The stubs that come with packages say other things to other Pythons: the oldest and the newest that have a lock.
check-types: .venv/dev.stamp
	$(BIN)/mypy --python-version 3.11
	$(BIN)/mypy --python-version 3.14

check-style: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check-imports: .venv/dev.stamp
	$(BIN)/lint-imports --no-cache

check-c: .venv/dev.stamp
	$(BIN)/clang-format --dry-run --Werror $(wildcard csrc/*/*.[ch] csrc/*/*/*.[ch] bench/*/*.[ch])

check-stubs: .venv/dev.stamp
	$(BIN)/python protos/generate.py --check

# The C tests alone, without Python, under AddressSanitizer and UndefinedBehaviorSanitizer.
test-c: .venv/dev.stamp
	$(BIN)/cmake -S . -B build/c-sanitized -DCMAKE_BUILD_TYPE=RelWithDebInfo -DEDGEFL_SANITIZE=ON
	$(BIN)/cmake --build build/c-sanitized --parallel 2
	$(BIN)/ctest --test-dir build/c-sanitized --output-on-failure --parallel 2

# The C entries that read data from outside, under libFuzzer with the sanitizers. What it finds is written next to the
# corpus, in build/fuzz/; smoke_NAME of a build of the tests replays it.
fuzz: .venv/dev.stamp
	@test -n "$(CLANG)" || { echo "make fuzz needs clang with libFuzzer: apt-get install clang-14 libclang-rt-14-dev (or set CLANG=)" >&2; exit 1; }
	$(BIN)/cmake -S . -B build/c-fuzz -DCMAKE_C_COMPILER=$(CLANG) -DCMAKE_BUILD_TYPE=RelWithDebInfo -DEDGEFL_FUZZ=ON -DBUILD_TESTING=OFF
	$(BIN)/cmake --build build/c-fuzz --parallel 2
	@set -e; for target in build/c-fuzz/fuzz_*; do \
		name=$${target##*/fuzz_}; mkdir -p build/fuzz/$$name; echo "$$name: $(FUZZ_SECONDS) s"; \
		$$target -max_total_time=$(FUZZ_SECONDS) -max_len=2048 -timeout=10 -print_final_stats=1 -verbosity=0 \
			-artifact_prefix=build/fuzz/$$name- build/fuzz/$$name; \
	done

# One process for each core. A process begins with half of the files in order, and takes tests from the other when it
# has none left, so a fixture of a module is rarely made twice. `pytest` alone runs them one after another.
PYTEST = $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal

test-python: .venv/dev.stamp
	$(PYTEST)

# pytest turns the asserts of the tests and of their kits into statements of its own, which -O leaves in.
test-optimized: .venv/dev.stamp
	PYTHONOPTIMIZE=1 $(PYTEST) -W ignore::pytest.PytestConfigWarning

# What every variant must compute; csrc/tests/golden.c. The file changes only after a run that succeeded.
golden: .venv/dev.stamp
	$(BIN)/cmake -S . -B build/golden/default
	$(BIN)/cmake --build build/golden/default --target golden --parallel 2
	build/golden/default/golden scalar > build/golden/kernel.txt
	cp build/golden/kernel.txt tests/golden/kernel.txt

# PEERS_PYTHON: an interpreter that has bench/peers/requirements.txt; peers that it lacks are left out.
bench-kernel: .venv/dev.stamp
	$(BIN)/python bench/kernel.py $(if $(PEERS_PYTHON),--peers-python $(PEERS_PYTHON)) $(BENCH_ARGS)

# Durable reports compared with a bare gRPC echo; two cores.
bench-reports: .venv/dev.stamp
	$(BIN)/python bench/reports.py $(BENCH_ARGS)

# The round machine alone; one core.
bench-rounds: .venv/dev.stamp
	$(BIN)/python bench/rounds.py $(BENCH_ARGS)

# Whole rounds in one process; one core unless BENCH_ARGS="--cores 2".
bench-simulation: .venv/dev.stamp
	$(BIN)/python bench/simulation.py $(BENCH_ARGS)

# Accuracies, not times; every core. Fetches the data sets on first use.
bench-learning: .venv/dev.stamp
	$(BIN)/python bench/learning.py $(BENCH_ARGS)

# ARM without an ARM machine. Both write below build/arm.
test-arm:
	CLANG=$(or $(CLANG),clang) tests/arm/run.sh

bench-arm: .venv/bin/python
	bench/arm/run.sh $(BIN)/python

test-long: .venv/dev.stamp
	PYTHONPATH=tests/kits $(BIN)/python -m faults.long --seeds $(EDGEFL_FAULT_SEEDS) --state build/fault-seeds.json

proto:
	$(PYTHON) protos/generate.py

format: .venv/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(wildcard csrc/*/*.[ch] csrc/*/*/*.[ch] bench/*/*.[ch])

wheels: .venv/bin/python
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf build dist edgefl/kernels/*.so edgefl/kernels/_kernels.c .venv/kernel.stamp
