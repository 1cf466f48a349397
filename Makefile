# Two commands for everyone, `make demo` and `make test`; each makes its own .venv from pinned versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := bin/python -m pip install --quiet --disable-pip-version-check
# Beside no checkout.
AWAY = $(or $(TMPDIR),/tmp)/minrl-dist-$(shell id -u)
DEMO := runs/demo
# A file's tests stay together: they share what they have trained. One process more than two cores have, as tests that
# start servers or stop runs wait a good part of their time.
PARALLEL := -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-all lint bench docs dist versions clean

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
	$(VENV)/$(PIP) --no-deps --no-build-isolation --target build/wheel .
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/installed
	$(BIN)/python benchmarks/decision_step.py
	$(BIN)/minrl bench --out runs/bench
	$(BIN)/python benchmarks/data_loading.py

# What is pinned, into the environment $(1). Every file is checked against its hash; requirements/lock.py writes them.
# Torch's build for CPUs, where pip finds it; else the index's, which for GPUs names the libraries that it loads.
define pinned
	$(PYTHON) -m venv $(1)
	$(1)/$(PIP) --no-deps --require-hashes -r requirements/torch_cpu.txt 2>/dev/null || \
		$(1)/$(PIP) --no-deps --require-hashes -r requirements/torch.txt
	if grep -qE '^Requires-Dist: (nvidia|cuda)' $(1)/lib/python*/site-packages/torch-*.dist-info/METADATA; then \
		$(1)/$(PIP) --no-deps --require-hashes -r requirements/cuda.txt; fi
	$(1)/$(PIP) --no-deps --require-hashes -r requirements/dev.txt
endef

$(VENV)/installed: pyproject.toml $(wildcard requirements/*.txt)
	$(call pinned,$(VENV))
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check
	@touch $@

# The wheel is built from the sdist, installed into an environment of its own, and used outside of the checkout.
dist: $(VENV)/installed
	rm -rf dist $(AWAY)
	$(BIN)/python -m hatchling build -t sdist -d dist
	mkdir -p $(AWAY) && tar xzf dist/minrl-*.tar.gz -C $(AWAY) --strip-components 1
	cd $(AWAY) && $(CURDIR)/$(BIN)/python -m hatchling build -t wheel -d $(CURDIR)/dist
	rm -rf $(AWAY)
	$(call pinned,$(AWAY))
	$(AWAY)/$(PIP) --no-deps dist/minrl-*.whl
	cd $(AWAY) && bin/python $(CURDIR)/tests/versions/check.py --outside $(CURDIR)
	rm -rf $(AWAY)

# The oldest and the newest dependencies under each Python that is here; its table is tests/versions/versions.md.
versions: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/python tests/versions/run.py $(ARGS)

clean:
	rm -rf $(VENV) build dist site *.egg-info
