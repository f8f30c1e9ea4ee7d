# `make` prints this help. Everything lives in .venv; nothing outside the checkout is changed.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed
PROJECTS := crds/pyproject.toml operator/pyproject.toml trainer_image/pyproject.toml

# $(call timed,NAME,COMMAND): run a phase and say how long it took, so that CI shows where the time goes.
timed = @begin=$$(date +%s); echo "--- $(1)"; $(2) && echo "--- $(1): $$(( $$(date +%s) - begin )) s"

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-fast lint type verify crds bench image clean cluster-up cluster-down

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

test: venv ## lint, types, generated files, unit and distributed tests
	$(call timed,lint,$(MAKE) -s lint)
	$(call timed,types,$(MAKE) -s type)
	$(call timed,verify,$(MAKE) -s verify)
	$(call timed,unit tests,$(BIN)/pytest -q tests/unit)
	$(call timed,distributed tests,$(BIN)/pytest -q tests/distributed)

test-fast: venv ## unit tests that take seconds
	$(BIN)/pytest -q tests/unit -m "not slow and not distributed"

lint: venv ## ruff and the layer contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

type: venv ## mypy, strict on API and operator
	@$(BIN)/mypy

crds: venv ## write the generated files: CRD, docs/manifest.md, docs/contract.md
	@$(BIN)/python -m adts_api.crd

verify: venv ## fail if a generated file differs from its source
	@$(BIN)/python -m adts_api.crd --check

bench: venv ## step time against a bare torch DDP loop, and start-up time (printed, not asserted)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest -q -s --timeout=600 tests/perf

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
