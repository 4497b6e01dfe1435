# Each target works alone on a fresh clone: it makes .venv first if need be.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test soak lint format bench conformance nfe pictures mutants clean help

help:
	@echo "make setup | demo | test | soak | lint | format | bench | conformance | nfe | pictures | mutants | clean"

$(STAMP): pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

setup: $(STAMP)

demo: $(STAMP)
	$(BIN)/raysde demo

# the mathematics on all cores, one thread each; then what starts processes of its own
OWN_PROCESSES := tests/cluster tests/multiprocess tests/test_tracking.py tests/test_serving.py
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile tests $(addprefix --ignore=,$(OWN_PROCESSES))
	$(BIN)/python -m pytest $(OWN_PROCESSES)

soak: $(STAMP)
	$(BIN)/python -m pytest -m slow tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
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

mutants: $(STAMP)
	$(BIN)/python tests/mutants.py

clean:
	rm -rf $(VENV) out *.egg-info
