# Two commands do everything on a fresh clone: `make demo` and `make test`. `make docs` makes the site, `make build` what
# a package index gets; `make notebook` runs the notebook of examples/ again.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
PIP     = $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt

.PHONY: demo test lint docs notebook build install install-test clean

demo: $(VENV)/.installed
	$(BIN)/prefloop demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(PYTEST)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check src tests examples benchmarks
	$(BIN)/ruff format --check src tests examples benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

# strict: a link that leads nowhere ends it
docs: $(VENV)/.installed
	$(PIP) -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site

notebook: $(VENV)/.installed-test
	$(BIN)/python examples/run_notebook.py examples/loop.ipynb

# an sdist, and from it a wheel; both are installed by name into an environment of their own, where the demo runs
build: $(VENV)/.installed-test
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(PYTHON) -m venv --clear build/clean
	build/clean/bin/python -m pip install --disable-pip-version-check -q -c constraints.txt "$$(grep '^torch==' constraints.txt)" dist/prefloop-*.whl
	cd build && clean/bin/prefloop demo --out "$$(mktemp -d)/demo" --quiet

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test

# torch first and pinned: a range would let pip choose a build with gigabytes of CUDA packages
$(VENV)/.installed: pyproject.toml setup.py constraints.txt $(wildcard src/prefloop/kernels/*.[ch])
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) -e ".[test,lint,postgres,web]"
	tests/programs.sh
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
