# `make` prints this help. Everything lives in .venv; nothing outside the checkout is changed.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || echo python3)
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-fast lint type verify crds bench image clean

help: ## print this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

venv: $(STAMP) ## install everything into .venv, with pip alone

$(STAMP): constraints.txt requirements-dev.txt crds/pyproject.toml operator/pyproject.toml trainer_image/pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -r requirements-dev.txt -e crds -e operator -e trainer_image
	@touch $@

lint: venv ## ruff and the layer contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

type: venv ## mypy, strict on API and operator
	$(BIN)/mypy

clean: ## remove caches and runs, keep .venv
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
