# `make serve` and `make test` are enough: both prepare .venv when it is missing or out of date.
#   make serve HOST=0.0.0.0 PORT=9000 CHECKPOINT=runs/base
#   make test ARGS="-k beam"
#   make setup PYTHON=python3.12

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := .bench/peers
OPENVINO := .bench/openvino

.PHONY: help setup serve test check bench

help:
	@echo "make setup   prepare $(VENV) and nothing else"
	@echo "make serve   answer on http://127.0.0.1:8000 (HOST, PORT, CHECKPOINT)"
	@echo "make test    run the tests (ARGS go to pytest)"
	@echo "make check   formatting, lint, types and import contracts"
	@echo "make bench   measure decoding against the peers (ARGS go to the benchmark)"

setup: $(STAMP)

# Without PYTHON=… a .venv that works is kept, whatever made it; with it, one of another version is made anew.
ifeq ($(origin PYTHON),file)
FITS := $(BIN)/python -m pip --version >/dev/null 2>&1
else
FITS := test "$$($(BIN)/python -V 2>/dev/null)" = "$$($(PYTHON) -V)" && $(BIN)/python -m pip --version >/dev/null 2>&1
ifneq ($(shell $(BIN)/python -V 2>/dev/null),$(shell $(PYTHON) -V 2>/dev/null))
.PHONY: $(STAMP)
endif
endif

# The stamp is written last, so an interrupted installation is taken up again.
$(STAMP): pyproject.toml constraints.txt hatch_build.py $(wildcard model/native/*.cpp model/native/*.h)
	@$(FITS) || $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13; name one that is: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(FITS) || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

# From make's command line only: some shells and compilers export a HOST that is no address to listen on.
flag = $(if $(filter command,$(origin $(1))),--$(2) "$($(1))")

serve: $(STAMP)
	@exec $(BIN)/leximind serve $(call flag,HOST,host) $(call flag,PORT,port) $(call flag,CHECKPOINT,checkpoint)

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP) $(PEERS)/.installed $(OPENVINO)/.installed
	$(BIN)/python -m benchmarks.decoding $(foreach peer,$(PEERS) $(OPENVINO),--peer-python $(peer)/bin/python) $(ARGS)

$(PEERS)/.installed: pyproject.toml constraints.txt benchmarks/constraints-peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --disable-pip-version-check --quiet \
		-c constraints.txt -c benchmarks/constraints-peers.txt -e '.[bench]'
	@touch $@

# optimum-intel asks for torchvision, which nothing here uses; a build of it for another torch breaks transformers.
$(OPENVINO)/.installed: pyproject.toml benchmarks/constraints-openvino.txt
	$(PYTHON) -m venv $(OPENVINO)
	$(OPENVINO)/bin/python -m pip install --disable-pip-version-check --quiet \
		-c benchmarks/constraints-openvino.txt -e '.[bench-openvino]'
	$(OPENVINO)/bin/python -m pip uninstall --disable-pip-version-check --quiet --yes torchvision
	@touch $@
