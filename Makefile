# `make serve` and `make test` are enough: both prepare .venv when it is missing or out of date.
#   make serve HOST=0.0.0.0 PORT=9000 CHECKPOINT=runs/base
#   make test ARGS="-k beam"
#   make setup PYTHON=python3.12

PYTHON ?= python3
ARGS ?=
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SERVE_STAMP := $(VENV)/.serve
PEERS := .bench/peers
OPENVINO := .bench/openvino
LLAMA := .bench/llama
RAY := .bench/ray

.PHONY: help setup serve test check constraints proof soak image-test ray-test arm-test load bench answers docs space wheels

help:
	@echo "make setup   prepare $(VENV) for everything, and nothing else"
	@echo "make serve   answer on http://127.0.0.1:8000 (HOST, PORT, CHECKPOINT)"
	@echo "make test    run the tests in WORKERS (2) processes (ARGS go to pytest)"
	@echo "make check   formatting, lint, types and import contracts"
	@echo "make constraints   ask pip whether every pin exists for every Python that is promised (minutes)"
	@echo "make proof   the tests of what the service promises, in their long forms (an hour)"
	@echo "make soak    half an hour of everything at once, every answer checked (ARGS=\"--minutes 120\")"
	@echo "make answers record anew what the bundled checkpoint answers to the examples, after a change of either"
	@echo "make image-test  build the image and run it: as root, with buildah, and debootstrap where there is no registry"
	@echo "make arm-test  the kernels for ARM64 under an emulator; needs g++-aarch64-linux-gnu and qemu-user"
	@echo "make ray-test  the tests of deploy/ray and of leximind bulk --ray, in an environment of their own"
	@echo "make load    ask URL at RATE arrivals a second for TIME seconds, ARRIVALS=constant, ramp or spike; writes REPORT"
	@echo "make wheels  write wheels that need no compiler into dist/; needs g++ and g++-aarch64-linux-gnu"
	@echo "make docs    build the pages of docs/ into build/site"
	@echo "make space   write what a Hugging Face Space of the demo's page is built from into SPACE (build/space)"
	@echo "make bench   measure decoding against the peers (ARGS go to the benchmark)"

setup: $(STAMP)

# Without PYTHON=… a .venv that works is kept, whatever made it; with it, one of another version is made anew.
ifeq ($(origin PYTHON),file)
FITS := $(BIN)/python -m pip --version >/dev/null 2>&1
else
FITS := test "$$($(BIN)/python -V 2>/dev/null)" = "$$($(PYTHON) -V)" && $(BIN)/python -m pip --version >/dev/null 2>&1
ifneq ($(shell $(BIN)/python -V 2>/dev/null),$(shell $(PYTHON) -V 2>/dev/null))
.PHONY: $(STAMP) $(SERVE_STAMP)
endif
endif

# CUDA builds of torch are gigabytes. Without an NVIDIA device, Linux on x86-64 takes the CPU build from PyTorch's own
# index: its local version (+cpu) sorts above the plain one. An index that pip is told of by the environment wins.
TORCH_INDEX := https://download.pytorch.org/whl/cpu
HAS_INDEX := $(BIN)/python -m pip config list | grep -E "index-url|find-links|no-index" >/dev/null
NEEDS_CPU_TORCH := test "$$(uname -sm)" = "Linux x86_64" && ! test -e /dev/nvidiactl && ! test -e /dev/dxg && \
	! $(HAS_INDEX)

# $(1): the extra to install.
define install
	@$(FITS) || $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' || { \
		echo "$(PYTHON) is not Python 3.11, 3.12, 3.13 or 3.14; name one that is: make setup PYTHON=python3.12" >&2; \
		exit 1; }
	@$(FITS) || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt \
		$$($(NEEDS_CPU_TORCH) && echo --extra-index-url $(TORCH_INDEX)) -e '.[$(1)]'
	@$(BIN)/python -m model.kernels.library
endef

PREREQUISITES := pyproject.toml constraints.txt hatch_build.py \
	$(wildcard model/kernels/*.cpp model/kernels/*.h model/kernels/sources.py model/kernels/builds.py)

# A stamp is written last, so an interrupted installation is taken up again.
$(STAMP): $(PREREQUISITES)
	$(call install,dev)
	@touch $(SERVE_STAMP) $@

$(SERVE_STAMP): $(PREREQUISITES)
	$(call install,serve)
	@touch $@

# From make's command line only: some shells and compilers export a HOST that is no address to listen on.
flag = $(if $(filter command,$(origin $(1))),--$(2) "$($(1))")

# What serving needs is half of the whole; where the whole is there, it is kept up to date.
serve: $(if $(wildcard $(STAMP)),$(STAMP),$(SERVE_STAMP))
	@exec $(BIN)/leximind serve $(call flag,HOST,host) $(call flag,PORT,port) $(call flag,CHECKPOINT,checkpoint)

# A file's tests stay in one process, since they share what is made once a file.
test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

constraints: $(STAMP)
	$(BIN)/python -m pytest -m network tests/deploy/test_constraints.py

# What takes seconds in `make test` takes minutes: more examples, twenty times, a thousand clients, every variant.
proof: $(STAMP)
	PROOF=full $(BIN)/python -m pytest --timeout 3600 tests/e2e tests/training $(ARGS)

soak: $(STAMP)
	$(BIN)/python -m benchmarks.soak $(ARGS)

answers: $(STAMP)
	PYTHONPATH=tests $(BIN)/python -m support.examples
	PYTHONPATH=tests $(BIN)/python -m support.pages

wheels: $(STAMP)
	$(BIN)/python -m deploy.wheels

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# On the Dockerfile's base, on BASE_IMAGE, or on a debootstrap of this machine's Debian, or of SUITE; of torch the CPU build.
# IMAGE_STORE=DIR keeps the layers for the next time.
image-test: $(STAMP)
	@command -v buildah >/dev/null && test "$$(id -u)" = 0 || { \
		echo "run it as root, after: apt-get install buildah debootstrap runc" >&2; exit 1; }
	TORCH_INDEX_URL=$$($(HAS_INDEX) || echo $(TORCH_INDEX)) $(BIN)/python -m pytest -m image --log-cli-level=INFO \
		tests/image $(ARGS)

arm-test: $(STAMP)
	$(BIN)/python -m pytest -m arm tests/arm $(ARGS)

# What .venv has is found there, after Ray and what it brings, and is not installed again.
ray-test: $(RAY)/.installed
	RAY_USAGE_STATS_ENABLED=0 $(RAY)/bin/python -m pytest -m ray tests/cluster $(ARGS)

PURELIB := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'

$(RAY)/.installed: $(STAMP)
	$(BIN)/python -m venv --clear $(RAY)
	$(BIN)/python $(PURELIB) > "$$($(RAY)/bin/python $(PURELIB))/venv.pth"
	$(BIN)/python deploy/image/requirements.py ray > $(RAY)/requirements.txt
	$(RAY)/bin/python -m pip install --disable-pip-version-check --quiet -c constraints.txt \
		-r $(RAY)/requirements.txt
	@touch $@

SPACE ?= build/space
SPACE_FILES := app model training deploy/image pyproject.toml constraints.txt hatch_build.py LICENSE .dockerignore

# A Space builds the last stage of the Dockerfile, by its defaults: there that is the page, on a processor.
space:
	@rm -rf "$(SPACE)" && mkdir -p "$(SPACE)"
	git archive HEAD $(SPACE_FILES) | tar -x -C "$(SPACE)"
	cp deploy/space/README.md "$(SPACE)"
	{ sed -e 's|^ARG EXTRAS=serve$$|ARG EXTRAS=serve,demo|' -e 's|^ARG TORCH_INDEX_URL=.*|ARG TORCH_INDEX_URL=$(TORCH_INDEX)|' \
		Dockerfile; echo; echo 'FROM demo'; } > "$(SPACE)/Dockerfile"
	echo '*.safetensors filter=lfs diff=lfs merge=lfs -text' > "$(SPACE)/.gitattributes"

URL ?= http://127.0.0.1:8000
ARRIVALS ?= ramp
RATE ?= 40
TIME ?= 120
REPORT ?= load.html

load: $(STAMP)
	$(BIN)/python -m locust --locustfile tests/load/shapes.py --headless --only-summary --host $(URL) \
		--arrivals $(ARRIVALS) --rate $(RATE) --seconds $(TIME) --html $(REPORT) $(ARGS)

bench: $(STAMP) $(foreach peer,$(PEERS) $(OPENVINO) $(LLAMA),$(peer)/.installed)
	$(BIN)/python -m benchmarks.decoding \
		$(foreach peer,$(PEERS) $(OPENVINO) $(LLAMA),--peer-python $(peer)/bin/python) $(ARGS)

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

# Compiled for this processor, without what reads images. With AMX its products in 8 bits end in an illegal instruction.
$(LLAMA)/.installed: pyproject.toml constraints.txt benchmarks/constraints-llama.txt
	$(PYTHON) -m venv $(LLAMA)
	CMAKE_ARGS=-DLLAVA_BUILD=OFF \
	CXXFLAGS="$(if $(filter x86_64,$(shell uname -m)),-mno-amx-tile -mno-amx-int8 -mno-amx-bf16)" \
	$(LLAMA)/bin/python -m pip install --disable-pip-version-check --quiet \
		-c constraints.txt -c benchmarks/constraints-llama.txt -e '.[bench-llama]'
	@touch $@
