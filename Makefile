# Two commands for everyone, `make demo` and `make test`; each makes its own .venv from pinned versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo
# A file's tests stay together: they share what they have trained. One process more than two cores have, as tests that
# start servers or stop runs wait a good part of their time.
PARALLEL := -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-all lint bench docs clean

demo: $(VENV)/installed
	@rm -rf $(DEMO)
	$(BIN)/minrl train decision --config configs/demo.toml --out $(DEMO)

test: $(VENV)/installed
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL) $(ARGS)

# The learning tests too.
test-all: $(VENV)/installed
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The reference is read from the layout of the wheel, in which agents/ and envs/ lie inside the package.
docs: $(VENV)/installed
	rm -rf build/wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --target build/wheel .
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/installed
	$(BIN)/python benchmarks/decision_step.py
	$(BIN)/minrl bench --out runs/bench
	$(BIN)/python benchmarks/data_loading.py

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	# torch first: with the pinned one there, nothing else asks for another build of it.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) build dist site *.egg-info
