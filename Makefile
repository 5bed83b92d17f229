# `make serve` and `make test` are enough: both prepare .venv when it is missing or out of date.
#   make serve HOST=0.0.0.0 PORT=9000 CHECKPOINT=runs/base
#   make test ARGS="-k beam"
#   make setup PYTHON=python3.12

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup serve test check bench

help:
	@echo "make setup   prepare $(VENV) and nothing else"
	@echo "make serve   answer on http://127.0.0.1:8000 (HOST, PORT, CHECKPOINT)"
	@echo "make test    run the tests (ARGS go to pytest)"
	@echo "make check   formatting, lint, types and import contracts"
	@echo "make bench   measure decoding (ARGS go to the benchmark)"

setup: $(STAMP)

# The stamp is written last, so an interrupted installation is taken up again.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

serve: $(STAMP)
	@exec $(BIN)/leximind serve $(if $(HOST),--host "$(HOST)") $(if $(PORT),--port "$(PORT)") \
		$(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)")

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python -m benchmarks.decoding $(ARGS)
