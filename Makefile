# Two commands on a bare machine: `make demo` and `make test`. Both need only Python 3.11+ and make.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
VLLM_DIR ?= .venv-vllm
LLAMACPP_DIR ?= .venv-llamacpp
TORCH_DIR ?= .venv-torch
ENGINE ?= $(firstword $(foreach engine,docker podman,$(if $(shell command -v $(engine) 2>/dev/null),$(engine))))
IMAGE  ?= roofline-agent:0.1.0
PLATFORM ?=
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test test-long lint e2e-vllm e2e-llamacpp e2e-calibrate accuracy gpu-check soak fuzz bench bench-scale bench-review bench-vllm generate image sbom lock tools clean

help:  ## Show this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo  ## The agent on a simulated 8-GPU node, at http://localhost:10095/
	@$(BIN)/roofline-agent demo $(DEMO)

test: $(VENV)/.dev tools lint  ## Everything that must pass
	@$(BIN)/python -m pytest -q -n 2 --dist loadscope --no-loadscope-reorder -m "not long" $(PYTEST)

test-long: $(VENV)/.dev tools  ## The long suites as well
	@$(BIN)/python -m pytest -q -n 2 --dist loadscope --no-loadscope-reorder $(PYTEST)

lint: $(VENV)/.dev  ## ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check --quiet . && $(BIN)/mypy

e2e-vllm: $(VENV)/.dev  ## Against a real vLLM server on this CPU (installs 3.4 GB into .venv-vllm)
	@tests/e2e/install_vllm.sh $(VLLM_DIR)
	@VLLM_DIR=$(VLLM_DIR) $(BIN)/python -m pytest -q -p no:xdist -s tests/e2e/vllm_server.py tests/e2e/vllm_mixture.py tests/e2e/vllm_discovery.py $(PYTEST)

e2e-llamacpp: $(VENV)/.dev  ## Against a real llama-server on this CPU (builds 600 MB into .venv-llamacpp)
	@tests/e2e/install_llamacpp.sh $(LLAMACPP_DIR)
	@LLAMACPP_DIR=$(LLAMACPP_DIR) $(BIN)/python -m pytest -q -p no:xdist -s tests/e2e/llamacpp_server.py $(PYTEST)

e2e-calibrate: $(VENV)/.dev  ## calibrate with a real PyTorch on this CPU (installs 0.9 GB into .venv-torch)
	@tests/e2e/install_torch.sh $(TORCH_DIR)
	@TORCH_DIR=$(TORCH_DIR) $(BIN)/python -m pytest -q -p no:xdist -s tests/e2e/calibrate_cpu.py $(PYTEST)

accuracy: $(VENV)/.dev  ## docs/accuracy.md's tables, from the measurements
	@$(BIN)/python -m tests.accuracy

gpu-check: $(VENV)/.dev  ## Against a real NVIDIA GPU (needs PyTorch with CUDA; records tests/fixtures/nvml/)
	@$(BIN)/python -m tests.gpu $(GPU_CHECK)

soak: $(VENV)/.dev  ## Everything that can go wrong, for hours of its time; SOAK="--ticks N --seed N --minutes M --process --vllm DIR"
	@$(BIN)/python -m tests.soak $(SOAK)

fuzz: $(VENV)/.dev  ## A million inputs that are nearly right, over all parsers; FUZZ="--cases N --seconds S --jobs N --parser NAME"
	@$(BIN)/python -m tests.fuzz $(FUZZ)

bench: $(VENV)/.dev  ## What the agent costs, beside nvitop-exporter (installed into .venv-nvitop); BENCH="--seconds 60 --json FILE"
	@$(BIN)/python -m tests.bench $(BENCH)

bench-scale: $(VENV)/.dev tools  ## What a month of recorded increases costs to ask for
	@$(BIN)/python -m tests.bench.scale $(BENCH)

bench-review: $(VENV)/.dev tools  ## What the monthly review costs; BENCH="--nodes 40 250"
	@$(BIN)/python -m tests.bench.review $(BENCH)

bench-vllm: $(VENV)/.dev  ## What being scraped costs a real vLLM (installs 3.4 GB into .venv-vllm)
	@tests/e2e/install_vllm.sh $(VLLM_DIR)
	@VLLM_DIR=$(VLLM_DIR) $(BIN)/python -m tests.bench.scraped_vllm $(BENCH)

generate: $(VENV)/.dev  ## Rewrite generated files and goldens; the diff is the review
	@$(BIN)/python -m pytest -q -n 2 --update-golden tests $(PYTEST)

image:  ## Both container images (docker or podman): IMAGE=NAME and NAME-report; PLATFORM=linux/amd64,linux/arm64
	@test -n "$(ENGINE)" || { echo "an image needs docker or podman" >&2; exit 1; }
	$(foreach target,image report,$(ENGINE) build --target $(target) --tag $(IMAGE)$(if $(filter report,$(target)),-report) \
	  $(if $(PLATFORM),--platform $(PLATFORM)) \
	  --build-arg REVISION=$(shell git rev-parse HEAD) --build-arg CREATED=$(shell git log -1 --format=%cI) . &&) true

sbom:  ## What is in the images, as CycloneDX: build/sbom.cdx.json and build/sbom-report.cdx.json
	@test -n "$(ENGINE)" || { echo "an image needs docker or podman" >&2; exit 1; }
	$(ENGINE) build --target sbom --output build .

lock: $(VENV)/.dev  ## Newest versions of all libraries, with hashes, into requirements*.lock
	@$(PIP) uv && deploy/image/lock.sh $(BIN)/uv

tools:  ## Prometheus, VictoriaMetrics, Alertmanager, Chromium, Node and a C compiler, from the distribution's packages
	@tests/install_tools.sh

clean:  ## Remove what was installed and built here
	rm -rf $(VENV) .venv-vllm .venv-llamacpp .venv-torch .venv-nvitop tests/dashboards/grafana/node_modules tests/helm/kubernetes/node_modules build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=…")'
	@$(PYTHON) -m venv $(VENV) || { echo "python venv is missing: on Debian, apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	@echo "installing into $(VENV) …"
	@$(PIP) --editable . && touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	@echo "installing into $(VENV) …"
	@$(PIP) --editable '.[dev]' && touch $@ $(VENV)/.demo
