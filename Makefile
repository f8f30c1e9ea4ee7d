# `make` prints this help. Everything lives in .venv; nothing outside the checkout is changed.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed
PROJECTS := crds/pyproject.toml operator/pyproject.toml trainer_image/pyproject.toml

# Runs of many small jobs that nobody times: two at once.
PARITY := $(addprefix tests/distributed/test_,parity.py deepspeed.py estimate_memory.py resume.py examples.py traps.py compression.py compressors.py compressor_methods.py pretrained.py outer.py onebit_adam.py)
# Also nobody's deadlines, but of other subjects.
UNTIMED := $(addprefix tests/distributed/test_,accounting.py bad_input.py checkpoints.py compile.py divergence.py evaluation.py failures.py precision.py)


# $(call timed,NAME,COMMAND): run a phase and say how long it took, so that CI shows where the time goes.
timed = @begin=$$(date +%s); echo "--- $(1)"; $(2) && echo "--- $(1): $$(( $$(date +%s) - begin )) s"

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-fast test-cluster lint type verify crds chart bench bench-operator bench-trainer bench-communication bench-compression image clean cluster-up cluster-down

help: ## print this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | while IFS="$$(printf '\t')" read -r t d; do printf '  make %-10s %s\n' "$$t" "$$d"; done

venv: $(STAMP) ## install everything into .venv, with pip alone

$(STAMP): constraints.txt requirements-dev.txt $(PROJECTS)
	@test -n "$(PYTHON)" || { echo "No python3.11 to 3.13 found; install one, or say make PYTHON=/path/to/python"; exit 2; }
	$(call timed,create .venv with $(PYTHON),$(PYTHON) -m venv .venv)
	$(call timed,install (torch comes from the registry: a few minutes and GB),$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -r requirements-dev.txt -e crds -e operator -e trainer_image)
	@touch $@

demo: venv ## train a small GPT on the Python standard library's text, live, in 2 processes
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/demo.sh

test: venv ## lint, types, generated files, unit, distributed and cluster tests
	$(call timed,lint,$(MAKE) -s lint)
	$(call timed,types,$(MAKE) -s type)
	$(call timed,verify,$(MAKE) -s verify)
	$(call timed,unit tests,$(BIN)/pytest -q -n 2 tests/unit)
	$(call timed,parity with one process,$(BIN)/pytest -q -n 2 $(PARITY))
	$(call timed,distributed tests,$(BIN)/pytest -q -n 2 $(UNTIMED))
	$(call timed,distributed tests with deadlines,$(BIN)/pytest -q tests/distributed $(addprefix --ignore=,$(PARITY) $(UNTIMED)))
	$(call timed,chart and cluster tests,$(MAKE) -s test-cluster)

# Two clusters at once: these tests mostly wait. A cluster that is given is one.
test-cluster: venv ## the operator on a real Kubernetes: root, Linux and Go, else skipped with the reason
	$(call timed,build Kubernetes and images,PYTHONPATH=tests $(BIN)/python -m cluster.harness build)
	$(call timed,run,$(BIN)/pytest -q $(if $(ADTS_TEST_KUBECONFIG),,-n 2 --dist loadfile) tests/chart tests/cluster)

test-fast: venv ## unit tests that take seconds
	$(BIN)/pytest -q tests/unit -m "not slow and not distributed"

lint: venv ## ruff and the layer contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

type: venv ## mypy, strict on API and operator
	@$(BIN)/mypy

crds: venv ## write the generated files: CRD, parts of docs/, then the chart
	@$(BIN)/python -m adts_api.crd
	@$(BIN)/python -m adts_operator.docs
	@$(MAKE) -s chart

chart: venv ## write the chart's generated files and the plain manifests, with the test cluster's helm
	@ADTS_HELM="$$(PYTHONPATH=tests $(BIN)/python -c 'from cluster.harness.binaries import binaries; print(binaries() / "helm")')" \
	  $(BIN)/python charts/generate.py

verify: venv ## fail if a generated file differs from its source
	@$(BIN)/python -m adts_api.crd --check
	@$(BIN)/python -m adts_operator.docs --check
	@$(BIN)/python charts/generate.py --check

bench: venv ## step time against a bare torch DDP loop, and start-up time (printed, not asserted)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest -q -s --timeout=600 tests/perf

bench-operator: venv ## the operator with 100 KWOK nodes: pods/s, writes, CPU, restart (printed, not asserted)
	@PYTHONPATH=tests $(BIN)/python -m perf.operator_bench $(SIZES)

bench-trainer: venv ## step time of every engine against the library it wraps, predicted against measured memory
	@PYTHONPATH=tests $(BIN)/python -m perf.trainer_bench $(ARGS)

bench-communication: venv ## compressors, torch's hooks and DeepSpeed over shaped links between two namespaces (root, Linux)
	@PYTHONPATH=tests $(BIN)/python -m perf.link_bench $(ARGS)

bench-compression: venv ## held-out loss with every compressor under every layout; resumable by cell, takes hours
	@PYTHONPATH=tests $(BIN)/python -m perf.compression_bench $(ARGS)

image: ## build both images with docker or buildah
	@tool=$$(command -v docker || command -v buildah) || { echo "make image needs docker or buildah"; exit 2; }; \
	for target in operator trainer; do \
	  case $$tool in *buildah) set -- buildah build;; *) set -- docker build;; esac; \
	  "$$@" $(IMAGE_FLAGS) --target $$target -t adts/$$target:$$($(PYTHON) -c 'import tomllib; print(tomllib.load(open("crds/pyproject.toml", "rb"))["project"]["version"])') . || exit; \
	done

cluster-up: venv ## start a real two-node Kubernetes on this machine (root, Linux, Go), print its kubeconfig
	@PYTHONPATH=tests $(BIN)/python -m cluster.harness up

cluster-down: venv ## remove every such cluster, also what a crashed run left
	@PYTHONPATH=tests $(BIN)/python -m cluster.harness down

clean: ## remove caches and runs, keep .venv
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
