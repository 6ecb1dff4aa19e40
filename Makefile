SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
UV_VERSION := 0.13.8
PIP_AUDIT_VERSION := 2.10.1
# The index to install from is the machine's own business: nothing here names one.
export UV_LINK_MODE ?= copy
# compiled once here, or at every start where PYTHONDONTWRITEBYTECODE is set
export UV_COMPILE_BYTECODE ?= 1
LOCK := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --extra train --group dev pyproject.toml -o requirements.lock
SERVE_LOCK := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate pyproject.toml \
	--constraints requirements.lock -o requirements-serve.lock
DOCS_LOCK := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate --group docs \
	--constraints requirements.lock -o requirements-docs.lock

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

PAGE := signlang/server/page
RUNTIME := ort.wasm.min.mjs ort-wasm-simd-threaded.mjs ort-wasm-simd-threaded.wasm

.PHONY: setup
setup: $(VENV)/.ready ## Create .venv from the locked set (nothing to do when it is up to date)
	@if ! command -v npm > /dev/null; then \
		test -e $(PAGE)/vendor/.ready || echo "no npm here: the page works through the service only"; \
	else $(MAKE) --no-print-directory page || \
		echo "npm brought nothing: the page works through the service only; later: make page"; fi

# `make setup TORCH=cpu` (or cu130, or auto) takes torch from where uv finds that build of it, and all
# other packages from the lock; it is remembered. Without it torch is what the index holds: on Linux a
# CUDA build of several gigabytes, which runs on a CPU as well. `make setup TORCH=` goes back to it.
TORCH_THERE := $(shell cat $(VENV)/.torch 2> /dev/null)
TORCH ?= $(TORCH_THERE)
ifneq ($(TORCH),$(TORCH_THERE))
$(VENV)/.ready: another-torch
REINSTALL := --reinstall-package torch --reinstall-package torchvision
endif
.PHONY: another-torch
another-torch:

WITHOUT_TORCH := $(VENV)/without-torch.lock
ifeq ($(TORCH),)
LOCKED := requirements.lock
else
LOCKED := $(WITHOUT_TORCH)
endif

$(WITHOUT_TORCH): requirements.lock
	@mkdir -p $(@D)
	@awk '/^[a-z0-9]/ { keep = !/^(torch|torchvision|triton|cuda-[a-z-]+|nvidia-[a-z0-9-]+)==/ } keep' $< > $@

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "signlang needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(UV) || { $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet uv==$(UV_VERSION); }
	@$(if $(TORCH),$(MAKE) --no-print-directory $(WITHOUT_TORCH))
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --require-hashes $(REINSTALL) -r $(LOCKED)
	$(if $(TORCH),$(UV) pip install --quiet --python $(BIN)/python --torch-backend=$(TORCH) $(REINSTALL) \
		$$(grep -oE '^(torch|torchvision)==[0-9.]+' requirements.lock))
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@echo $(TORCH) > $(VENV)/.torch
	@touch $@

.PHONY: page
page: $(PAGE)/vendor/.ready ## Get what a browser needs to run networks itself (with npm)

$(PAGE)/vendor/.ready: $(PAGE)/package-lock.json
	@cd $(PAGE) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error > /dev/null
	@mkdir -p $(PAGE)/vendor
	@cp $(addprefix $(PAGE)/node_modules/onnxruntime-web/dist/,$(RUNTIME)) $(PAGE)/vendor/
	@gzip -9 -k -f -n $(PAGE)/vendor/*.wasm
	@touch $@

.PHONY: hands
hands: setup ## Get the networks that find hands (pip downloads 36 MB, nothing is installed)
	$(BIN)/python -m signlang.hands

.PHONY: train
train: setup ## Train SqueezeNet on one fold of the built-in images (a few minutes on two cores)
	$(BIN)/python -m signlang.train experiment=synthetic_best fold=0

.PHONY: test
test: setup ## Run the fast tests
	$(BIN)/python -m pytest -n 2 -m "not slow"

.PHONY: test-all
test-all: setup ## Run all tests, the slow ones too
	$(BIN)/python -m pytest -n 2

.PHONY: fuzz
fuzz: setup ## Damage 100,000 files and requests of strangers: nothing but errors for people (13 minutes)
	$(BIN)/python experiments/faults/fuzz.py
	$(BIN)/python experiments/serving/api_fuzz.py --examples 1000 --least 10000

.PHONY: test-faults
test-faults: setup ## Kill, starve and damage commands 331 times, and ask a service 5,000 odd things (16 minutes)
	$(BIN)/python experiments/faults/campaign.py
	$(BIN)/python experiments/serving/api_fuzz.py

.PHONY: check
check: setup ## Lint, formatting and types, as continuous integration does
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: bench
bench: setup ## Race training against other ways to write it (real images, about 10 minutes)
	$(BIN)/python experiments/speed/speed.py

.PHONY: mutate
mutate: setup ## Put 300 small errors into a copy of the code, one at a time: do tests notice? (half an hour)
	$(BIN)/python experiments/mutation/mutate.py --count 300 --seed 0 --workers 2

.PHONY: docs
docs: $(VENV)/.docs ## Build the documentation into site/, every link checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

$(VENV)/.docs: requirements-docs.lock | setup
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements-docs.lock
	@touch $@

.PHONY: format
format: setup ## Put the code into the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: lock
lock: setup ## Renew requirements.lock, -serve.lock and -docs.lock from pyproject.toml
	$(LOCK) --upgrade
	$(SERVE_LOCK)
	$(DOCS_LOCK)

# --strict: an index that does not know a package makes it no safe one
.PHONY: audit
audit: setup ## Look up known vulnerabilities of all locked packages (needs the internet's databases)
	@for lock in requirements*.lock; do \
		echo "$$lock:"; \
		$(UV) tool run --from pip-audit==$(PIP_AUDIT_VERSION) pip-audit --strict --disable-pip \
			--require-hashes --progress-spinner off -r $$lock || \
		{ echo "$$lock was not found to be free of known vulnerabilities: renew it with make lock," \
			"or, if a database was not reached, try where the internet is."; exit 1; }; \
	done

# Dependabot renews the digests that are there
.PHONY: pin-images
pin-images: ## Write digests of the base images into Dockerfile (needs Docker and its registry)
	@cp Dockerfile Dockerfile.pinned
	@for image in $$(sed -nE 's/^FROM ([^ @]+).*/\1/p' Dockerfile | sort -u); do \
		digest=$$(docker buildx imagetools inspect "$$image" --format '{{.Manifest.Digest}}') && \
		echo "$$digest" | grep -qE '^sha256:[0-9a-f]{64}$$' || \
		{ rm -f Dockerfile.pinned*; echo "no digest of $$image: Dockerfile is as it was"; exit 1; }; \
		sed -i.bak -E "s|^FROM $$image(@[^ ]+)?|FROM $$image@$$digest|" Dockerfile.pinned; \
	done
	@rm -f Dockerfile.pinned.bak
	@mv Dockerfile.pinned Dockerfile
	@grep '^FROM' Dockerfile

.PHONY: wheel
wheel: setup ## Build the wheel into dist/
	$(UV) build --quiet --wheel --no-build-isolation --python $(BIN)/python

.PHONY: dashboards
dashboards: setup ## Open TensorBoard over all runs
	$(BIN)/tensorboard --logdir runs

.PHONY: clean
clean: ## Remove generated files here (not runs/, not the cache in your home folder)
	rm -rf dist build site .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
