# make demo   sets everything up and builds the demo data set through Dagster
# make test   sets everything up and runs lint, types and tests
# make dev    the Dagster UI on localhost (PORT=3000), with the demo's web server behind it
# make build PARTITION=my_photos   everything for one entry of the catalogue, from the terminal
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_SEED ?= 0
export DAGSTER_HOME := $(CURDIR)
export SD_ASSETS_DEMO := $(CURDIR)/.demo/world-$(DEMO_SEED)

PORT ?= 3000
.PHONY: setup demo dev build test lint train-demo

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sd_assets needs Python 3.11 or newer; this is " + sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	@echo "Setting up $(VENV) (about 6 GB with torch; some minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	@$(BIN)/python -m sd_assets.demo run --seed $(DEMO_SEED)

dev: setup
	@$(BIN)/python -m sd_assets.demo dev --seed $(DEMO_SEED) --port $(PORT)

build: setup
	@$(BIN)/python -m sd_assets $(PARTITION)

test: setup lint
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The demo's CLIP and BLIP are in the repository; this makes them anew (two hours on two cores).
train-demo: setup
	$(BIN)/python -m sd_assets.demo.train all
