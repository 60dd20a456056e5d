# Everything a fresh machine needs is set up by the targets themselves, in .venv.
#   make demo    set-up, build and the main job on the demo corpus
#   make test    set-up, build and the tests
#   make docs    the documentation site, in site/
#   make docs-test    the code of README.md and of the guides runs
#   make tables  the tables of the documentation, from the files under docs/measurements
#   make readme  the picture and the table of README.md, from a new run of the demo
#   make fuzz    inputs that nobody meant, for MINUTES=10 minutes
#   make kill    runs killed, interrupted, out of room or met by a second one, KILLS=100 times, in PROCESSES=1, and resumed
#   make growth  1,000 selectors one after another and 10,000 steps, in which no memory and no file may grow
#   make dist    the source distribution and a wheel made from it, in dist/
#   make check-install    the same, installed and run in an empty environment, with and without a compiler
#   make sanitize    the compiled core under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer
#   make frameworks    the table of docs/frameworks.md: other people's frameworks, each in an environment of its own (an hour)
# TORCH=torch==2.14.1 chooses another build of torch (default: the CPU build this release is tested with).
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
MINUTES ?= 10
KILLS ?= 100
PROCESSES ?= 1
BIN := $(VENV)/bin
NATIVE := $(wildcard setup.py pyproject.toml csrc/*.cpp csrc/*.h csrc/cpu/* csrc/cuda/*)

.PHONY: setup demo test lint docs docs-test readme tables bench frameworks families fuzz kill growth cuda-check dist check-install sanitize clean

setup: $(VENV)/.installed

# --no-build-isolation: the extension is compiled against the torch of this environment, and in half a minute.
$(VENV)/.installed: $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel
	$(BIN)/python -m pip install --quiet "$(TORCH)" numpy ninja pybind11
	$(BIN)/python -m pip install --quiet --no-build-isolation -e ".[dev]"
	touch $@

demo: setup
	$(BIN)/layerselect demo --out runs/demo

# Files of tests are dealt out to as many processes as there are cores, four at most.
test: setup
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# pip finds the package installed, and adds what the extra `docs` names.
$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet "layerselect[docs]"
	touch $@

# --strict: a broken link or anchor, or a page outside of the navigation, is an error (with --quiet it would be none).
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-test: $(VENV)/.docs
	$(BIN)/python -m pytest -p docs_tests.plugin docs_tests README.md CONTRIBUTING.md docs -n 2 --dist loadfile

tables: setup
	$(BIN)/python -m tools.tables

readme: setup
	$(BIN)/python tools/readme.py

bench: setup
	$(BIN)/python -m pytest bench --benchmark-only --benchmark-enable

# Environments, results and logs are kept in .frameworks, so that it goes on where it was; ONLY=expression picks cases.
frameworks: setup
	$(BIN)/python -m frameworks --only "$(ONLY)"

# One process per part; SEED=number draws other inputs. Fails if anything but a result or a refusal of one line came.
fuzz: setup
	$(BIN)/python -m tools.fuzz --minutes $(MINUTES) --seed $(or $(SEED),1)

# Training runs disturbed at random moments and changes of files and resumed: they must end with the bytes of one that was
# left alone. SEED=number draws others; what is wrong is left in runs/kill.
kill: setup
	$(BIN)/python -m tests.helpers.kill_and_resume --kills $(KILLS) --processes $(PROCESSES) --seed $(or $(SEED),0) \
		--at either --by kill interrupt full limit second read-only --keep runs/kill

# Counts tensors, objects, hooks and bytes while selectors come and go and steps are made; minutes.
growth: setup
	$(BIN)/python -m tools.growth

# Small models of every family of the installed transformers; it goes on where it was. ONLY=expression picks families.
families: setup
	$(BIN)/python -m families --only "$(ONLY)"

# Every kernel for every architecture, warnings as errors, no spills. Needs nvcc, no GPU and no Python package.
cuda-check:
	$(PYTHON) tools/cuda_check.py

# A wheel is for the torch of this environment, and says so in what it requires.
dist: setup
	$(BIN)/python -m build --no-isolation

check-install: setup
	$(BIN)/python tools/check_install.py

# Needs the runtimes that come with g++. Compiles into build/sanitize; SANITIZER=thread runs one alone.
sanitize: setup
	for one in $(or $(SANITIZER),address thread); do $(BIN)/python tools/sanitize.py $$one || exit 1; done

clean:
	rm -rf $(VENV) .frameworks build dist site *.egg-info layerselect/*.so .pytest_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
