# Targets install the Python packages that they need into .venv, from pinned and hashed requirements.
#   make train export RECIPE=article VARIANTS=relu_with_bn SEEDS=0,1 DATA=/path/to/cifar-100-python
PYTHON ?= python3
VENV ?= .venv
RECIPE ?= article
VARIANTS ?= all
SEEDS ?= 0
RUNS ?= runs
MODELS ?= $(or $(MODELS_DIR),exported_models)
DATA ?=
STEPS ?=
EPOCHS ?=
BATCH ?=
LEARNING_RATE ?=
REPLACE ?=
NO_PROMOTE ?=
DEMO ?= demo
TARGET ?= service
IMAGE ?= batchnorm-$(TARGET)
ENGINE ?=
BASE ?=
SBOM ?= sbom

BIN := $(VENV)/bin
# A path for the shell: in quotes, so that it may hold spaces, with a leading ~ replaced, which the shell does
# not do in quotes (nor some shells in DATA=~/x, before make sees it).
path = $(subst "~/,"$(HOME)/,"$(1)")
DATA_OPTION := $(if $(DATA),--data $(call path,$(DATA)))
FIT := $(DATA_OPTION) $(if $(STEPS),--steps $(STEPS)) $(if $(EPOCHS),--epochs $(EPOCHS)) \
	$(if $(BATCH),--batch $(BATCH)) $(if $(LEARNING_RATE),--learning-rate $(LEARNING_RATE))
COMPARE := $(BIN)/python -m training compare --recipe $(RECIPE) --runs $(call path,$(RUNS)) --to $(call path,$(MODELS))

# A misspelt variable would be ignored silently.
$(foreach name,SEED VARIANT MODEL STEP EPOCH,$(if $(filter command,$(firstword $(origin $(name)))),\
	$(error there is no variable $(name); $(name)S is one)))
$(if $(filter command,$(firstword $(origin RECIPES))),$(error there is no variable RECIPES; RECIPE is one))
$(foreach name,REPLACE NO_PROMOTE,$(if $(filter-out 1,$($(name))),\
	$(error $(name)=$($(name)): it is 1, or left out)))
# An empty name, as from MODELS=$FOLDER with FOLDER unset, would mean the current folder, and for VENV the
# system's own Python.
$(foreach name,VENV RUNS MODELS DEMO SBOM,$(if $($(name)),,\
	$(error $(name) is empty; name a folder, or leave it out for the default)))
# make takes a name with a space for two: clean would remove two other folders.
$(if $(word 2,$(VENV)),$(error VENV=$(VENV): spaces will not do here; name another: make VENV=.venv-other ...))

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo train freeze export compare serve test lint bench image sbom requirements clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  Variables: RECIPE=$(RECIPE) VARIANTS=$(VARIANTS) SEEDS=$(SEEDS) DATA=$(DATA) STEPS=$(STEPS)"
	@echo "             EPOCHS=$(EPOCHS) BATCH=$(BATCH) LEARNING_RATE=$(LEARNING_RATE) RUNS=$(RUNS) MODELS=$(MODELS)"
	@echo "             REPLACE=$(REPLACE) NO_PROMOTE=$(NO_PROMOTE) DEMO=$(DEMO) TARGET=$(TARGET) IMAGE=$(IMAGE)"
	@echo "             ENGINE=$(ENGINE) BASE=$(BASE) SBOM=$(SBOM) PYTHON=$(PYTHON) VENV=$(VENV)"
	@echo "             and for serve every setting (PORT=8001)"

setup: $(VENV)/.dev  ## Install everything into .venv

demo: $(VENV)/.training  ## The whole way on drawn pictures: train four nets, freeze, export, serve, ask
	$(BIN)/python -m training demo --to $(call path,$(DEMO))

train: $(VENV)/.training  ## Fit and freeze the nets (RECIPE, VARIANTS, SEEDS, DATA, STEPS, ...)
	$(BIN)/python -m training train --recipe $(RECIPE) --variants "$(VARIANTS)" --seeds "$(SEEDS)" --runs $(call path,$(RUNS)) $(FIT)

freeze: $(VENV)/.training  ## Freeze fitted nets again
	$(BIN)/python -m training freeze --recipe $(RECIPE) --variants "$(VARIANTS)" --seeds "$(SEEDS)" --runs $(call path,$(RUNS)) \
		$(DATA_OPTION)

# One trial of each variant is published: --seed takes the first of the seeds.
export: $(VENV)/.training  ## Export the frozen nets to ONNX with their comparison (REPLACE=1: in place of its recipe's newest version, NO_PROMOTE=1: not to answer yet)
	KERAS_BACKEND=tensorflow $(BIN)/python -m training export --recipe $(RECIPE) --variants "$(VARIANTS)" --seed "$(SEEDS)" \
		--runs $(call path,$(RUNS)) --models $(call path,$(MODELS)) $(DATA_OPTION) $(if $(REPLACE),--replace) \
		$(if $(NO_PROMOTE),--no-promote)
	$(COMPARE)

compare: $(VENV)/.training  ## Rewrite the comparison, from the frozen nets in RUNS and what is published already
	$(COMPARE)

serve: $(VENV)/.service  ## Serve the exported models on PORT (8000)
	MODELS_DIR=$(call path,$(MODELS)) exec $(BIN)/python -m service

test: $(VENV)/.dev  ## Run the tests
	$(BIN)/python -m pytest

lint: $(VENV)/.dev  ## Check style, types and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev  ## Measure the training step and the freeze
	$(BIN)/python -m benchmarks.training

image:  ## Build a container image (TARGET, MODELS, IMAGE, ENGINE, BASE)
	ENGINE="$(ENGINE)" BASE="$(BASE)" MODELS=$(call path,$(MODELS)) deploy/image.sh "$(TARGET)" "$(IMAGE)"

sbom: $(VENV)/.dev  ## Write the packages in the images, as CycloneDX (SBOM=sbom)
	@mkdir -p $(call path,$(SBOM))
	@for set in service-cpu service-gpu training-tensorflow training-jax; do \
		$(BIN)/cyclonedx-py requirements requirements/$$set.txt --pyproject pyproject.toml --mc-type application \
			--output-reproducible --output-file $(call path,$(SBOM))/$$set.cdx.json || exit; \
	done

# A set of pins and the extras of pyproject.toml that it holds. The first is what the tests run on;
# the others hold the same versions, so that what was tested is what is installed.
PINS := dev:dev service:gpu training:gpu,training \
	service-cpu:cpu service-gpu:cuda training-tensorflow:cpu,training training-jax:cpu,training,jax-cuda

requirements:  ## Pin the dependencies of pyproject.toml again (needs uv)
	for set in $(PINS); do \
		test $${set%%:*} = dev || same="--constraint requirements/dev.txt"; \
		uv pip compile pyproject.toml $$(echo "$${set#*:}" | sed 's/[^,]*/--extra=&/g; s/,/ /g') $$same \
			--upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
			--no-emit-find-links --no-header --quiet -o requirements/$${set%%:*}.txt || exit; \
	done

clean:  ## Remove .venv, caches and the demo's folder; trials and models stay
	rm -rf $(VENV) $(call path,$(DEMO)) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# The service also runs on newer ones; TensorFlow has no wheels for them.
KNOWN = $(if $(filter .service,$(@F)),3.11 or newer,3.11 to 3.13)
FITS = -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < $(if $(filter .service,$(@F)),(4,),(3, 14)))'

# One stamp per set of requirements, which is installed again when its file changes.
$(VENV)/.%: requirements/%.txt
	@test -x $(BIN)/python || $(PYTHON) $(FITS) || { echo "Python $(KNOWN) is needed, and $(PYTHON) is" \
		"$$($(PYTHON) --version 2>&1); name another: make PYTHON=python3.13 ..." >&2; exit 1; }
	@test -x $(BIN)/python || test -z "$$(ls -A $(VENV) 2>/dev/null)" || { echo "$(VENV) has files but no Python that" \
		"runs; remove it, or name another: make VENV=.venv-other ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	@$(BIN)/python $(FITS) || { echo "Python $(KNOWN) is needed, and $(VENV) has" \
		"$$($(BIN)/python --version 2>&1); remove it, or name another: make VENV=.venv-other ..." >&2; exit 1; }
# Where make was interrupted while it made the environment, pip may not be in it yet.
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip --default-pip >/dev/null
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $<
	@touch $@
