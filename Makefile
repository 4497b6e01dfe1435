# Each target works alone on a fresh clone: it makes .venv first if need be.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test coverage test-mathematics test-processes test-processors test-readme test-slow soak lint format bench conformance nfe pictures docs mutants clean help

help:
	@echo "make setup | demo | test | coverage | test-processors | test-readme | test-slow | soak | lint | format | bench | conformance | nfe | pictures | docs | mutants | clean"

$(STAMP): pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "installing the versions of constraints.txt into $(VENV), which takes minutes and prints nothing"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

setup: $(STAMP)

demo: $(STAMP)
	$(BIN)/raysde demo

# Two halves: the mathematics on all cores, one thread each unless OMP_NUM_THREADS says otherwise; then what starts
# processes of its own. Both halves run and report, also when the first one fails.
OWN_PROCESSES := tests/cluster tests/hosts tests/multiprocess tests/tracking/test_tracking.py tests/registry/test_serving.py
PYTEST := $(BIN)/python -m pytest
WORKERS := auto
test: $(STAMP)
	@status=0; \
	$(MAKE) --no-print-directory test-mathematics || status=1; \
	$(MAKE) --no-print-directory test-processes || status=1; \
	exit $$status

test-mathematics: $(STAMP)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(PYTEST) $(COVERAGE) -n $(WORKERS) --dist loadfile tests $(addprefix --ignore=,$(OWN_PROCESSES))

# The share of lines and branches that the first half runs; what starts processes of its own is not counted.
coverage: COVERAGE := --cov --cov-report=term
coverage: test-mathematics

# Two files at a time, since a local cluster mostly waits for its own start and end.
test-processes: $(STAMP)
	$(PYTEST) -n 2 --dist loadfile $(OWN_PROCESSES)

# The kernels of other processors: torch, oneDNN and MKL choose theirs by these variables; and two threads, in one
# process, since threads that wait for each other on the same core are many times slower.
SSE41 := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
test-processors: $(STAMP)
	@status=0; \
	$(SSE41) $(MAKE) --no-print-directory test || status=1; \
	$(AVX2) $(MAKE) --no-print-directory test-mathematics || status=1; \
	OMP_NUM_THREADS=2 $(MAKE) --no-print-directory test-mathematics WORKERS=1 || status=1; \
	exit $$status

# The README's path from one's own images to a champion, line by line.
test-readme: $(STAMP)
	$(PYTEST) -m readme tests/test_readme.py

# What takes minutes: the README's path, then kills, elastic worker groups, object stores and whole sweeps.
test-slow: $(STAMP)
	@status=0; \
	$(MAKE) --no-print-directory test-readme || status=1; \
	$(PYTEST) -m slow tests || status=1; \
	exit $$status

# Hosts as network namespaces, of which 20 are killed, cut off, drained or added while a run trains; needs root.
soak: $(STAMP)
	$(PYTEST) -m soak -s tests/hosts

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m tools.docstrings raysde tests tools benchmarks jobs
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python benchmarks/throughput.py

conformance: $(STAMP)
	$(BIN)/python benchmarks/conformance.py

nfe: $(STAMP)
	$(BIN)/python benchmarks/nfe.py

pictures: $(STAMP)
	$(BIN)/python benchmarks/pictures.py

# The documentation as a site: open site/index.html. A broken link or reference is an error.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

mutants: $(STAMP)
	$(BIN)/python -m tools.mutants

clean:
	rm -rf $(VENV) out site *.egg-info
