# Each target sets up what it needs. PYTHON selects the interpreter, 3.11 or 3.12.
PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
STATIC = $(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check . && $(BIN)/lint-imports
# Three processes on two cores: many tests wait for servers. Tests that share a costly fixture are a group, which one
# process runs; the groups that take longest begin first.
WORKERS = --numprocesses 3 --dist loadgroup --no-loadscope-reorder
# Containers often set it. Each process that starts would compile Dagster, torch and Ray again.
unexport PYTHONDONTWRITEBYTECODE
export DAGSTER_HOME := $(CURDIR)/.dagster
export DAGSTER_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.PHONY: help install demo backfill test check serve live dev bench seeds benchmark-real docs images site clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## create the virtual environment .venv with all dependencies

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing into $(VENV), which takes a minute or two: about 3 GB, most of it torch and Ray"
	@$(PYTHON) -m venv $(VENV)
	@# Python compiles modules when it imports them; compiling all of them here takes longer than the installation.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --editable '.[cpu,dev]' \
		--constraint constraints.txt
	@touch $@

$(DAGSTER_HOME)/dagster.yaml: dagster.yaml
	@mkdir -p $(DAGSTER_HOME)
	@cp $< $@

demo: $(INSTALLED) $(DAGSTER_HOME)/dagster.yaml ## materialize the whole lineage on simulated days, print the leaderboard
	@$(BIN)/mbta-assets demo

# make backfill SOURCE=lamp LAST=30
backfill: $(INSTALLED) $(DAGSTER_HOME)/dagster.yaml ## materialize the LAST service days of SOURCE, train, print the leaderboard
	@$(BIN)/mbta-assets backfill $(if $(SOURCE),--source $(SOURCE)) --last $(or $(LAST),30)

check: $(INSTALLED) ## lint, types, import contracts and unit tests, in some minutes on two cores: after each change
	$(STATIC)
	@$(BIN)/mypy & types=$$!; $(BIN)/pytest $(WORKERS) --numprocesses 2 -m unit; tests=$$?; wait $$types && exit $$tests

test: $(INSTALLED) ## everything: what continuous integration runs
	$(STATIC)
	$(BIN)/mypy
	$(BIN)/hadolint deploy/Dockerfile.*
	@$(BIN)/pytest $(WORKERS); result=$$?; \
		[ ! -d screenshots ] || echo "Screenshots of the browser tests: $(CURDIR)/screenshots"; exit $$result

serve: $(INSTALLED) ## serve predictions and their page from the demo's store
	$(BIN)/functions-framework --source deploy/functions/main.py --target predict --host 127.0.0.1 --port $(or $(PORT),8080)

live: $(INSTALLED) ## predict every stop ahead of every vehicle of the feed, and serve TripUpdates
	@$(BIN)/mbta-assets live $(if $(PORT),--port $(PORT))

dev: $(INSTALLED) $(DAGSTER_HOME)/dagster.yaml ## start the Dagster UI and daemon
	$(BIN)/dg dev $(if $(PORT),--port $(PORT))

bench: $(INSTALLED) ## measure the parts with the models of the demo, how costs grow, and quality on a real day
	@# The network of the live update is made up, and no model has learned it.
	@MBTA_FOREIGN_MODEL=allow OMP_NUM_THREADS=1 $(BIN)/python benchmarks/performance.py .local --write docs/performance.md
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/cost_curves.py .local $(DAGSTER_HOME) --write docs/performance.md
	@$(BIN)/python benchmarks/quality.py

seeds: $(INSTALLED) ## compare models over three seeds of the demo, in a quarter of an hour
	@$(BIN)/python benchmarks/seeds.py

# make benchmark-real DATA=../data BEFORE=../before/.local/real_days
benchmark-real: $(INSTALLED) ## train with three seeds on a real day, and on those in DATA, and write docs/results.md
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/real_days.py $(DATA) $(if $(BEFORE),--before $(BEFORE)) \
		--write docs/results.md

docs: $(INSTALLED) ## update the generated parts of the documentation: tables and the README's picture
	$(BIN)/python -m mbta_assets.documentation README.md $(wildcard docs/*.md)
	$(BIN)/python docs/make_picture.py

images: $(INSTALLED) ## copy screenshots that `make test` has left into the documentation's pictures
	$(BIN)/python docs/copy_screenshots.py

site: $(INSTALLED) ## build the documentation site in `site`; each warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

clean: ## remove the stores of demo and dev, and keep the virtual environment
	rm -rf .local .dagster
