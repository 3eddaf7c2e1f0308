# Each target sets up what it needs; PYTHON may name another Python 3.11.
PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export DAGSTER_HOME := $(CURDIR)/.dagster
export DAGSTER_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.PHONY: help install demo test serve dev bench seeds clean

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## the virtual environment .venv with everything in it

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@# Python compiles what it imports; compiling all of it here would take longer than installing it.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --editable '.[cpu,dev]' \
		--constraint constraints.txt
	@touch $@

$(DAGSTER_HOME)/dagster.yaml: dagster.yaml
	@mkdir -p $(DAGSTER_HOME)
	@cp $< $@

demo: $(INSTALLED) $(DAGSTER_HOME)/dagster.yaml ## the whole lineage on simulated days, ending with the leaderboard
	@$(BIN)/python -m mbta_assets.defs.demo

test: $(INSTALLED) ## lint, types, import contracts, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint deploy/Dockerfile.*
	@$(BIN)/pytest; result=$$?; \
		[ ! -d screenshots ] || echo "What the browser has seen: $(CURDIR)/screenshots"; exit $$result

serve: $(INSTALLED) ## the predictor and its page, on what the demo has stored
	$(BIN)/functions-framework --source deploy/functions/main.py --target predict --host 127.0.0.1 --port 8080

dev: $(INSTALLED) $(DAGSTER_HOME)/dagster.yaml ## the Dagster UI
	$(BIN)/dagster dev -w workspace.yaml

bench: $(INSTALLED) ## what the parts cost, measured in one run
	@$(BIN)/python benchmarks/parts.py

seeds: $(INSTALLED) ## the demo for three seeds, and how the models compare: a quarter of an hour
	@$(BIN)/python benchmarks/seeds.py

clean: ## remove what demo and dev have stored; the virtual environment stays
	rm -rf .local .dagster
