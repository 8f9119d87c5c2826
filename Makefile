# The two commands of README.md: `make quickstart` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
RUN := runs/quickstart

# The build of torch: cuda where there is an NVIDIA driver, else cpu; an existing environment keeps
# its build. On a Mac both are the same wheel.
MADE := $(patsubst .venv/.installed-%,%,$(wildcard .venv/.installed-*))
TORCH ?= $(or $(MADE),$(if $(shell command -v nvidia-smi),cuda,cpu))
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
LOCKS := requirements.lock requirements-$(TORCH).lock

# One process per core with one thread each: threads that share cores wait for each other. Each process
# has a run of neighboring tests, which share fixtures, and takes from another when it has none left.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

.PHONY: venv quickstart lint check test soak lock lock-cpu clean

venv: .venv/.installed-$(TORCH)

# Only packages with a hash in the locks are installed. The CPU build of torch comes first, from pip's
# configured index or else from PyTorch's own: no other package may come from PyTorch's index.
# pydoclint has a separate environment, see pyproject.toml.
.venv/.installed-$(TORCH): $(LOCKS) requirements-docstrings.lock
	@if [ -L .venv ]; then echo ".venv is a link: remove it to make an environment here"; exit 1; fi
	$(PYTHON) -m venv --clear .venv
ifeq ($(TORCH),cpu)
	$(PIP) install --quiet --no-deps --require-hashes --requirement requirements-cpu.lock 2> /dev/null || \
	$(PIP) install --quiet --no-deps --require-hashes --requirement requirements-cpu.lock \
	    --index-url $(TORCH_CPU_INDEX)
endif
	$(PIP) install --quiet --require-hashes $(addprefix --requirement ,$(LOCKS))
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	$(PIP) check
	$(PYTHON) -m venv .venv/docstrings
	.venv/docstrings/bin/python -m pip install --quiet --require-hashes --requirement requirements-docstrings.lock
	$(BIN)/python -m tests.peft_suite.fetch
	touch $@

# Train TeRA on the embedded task, then test the best checkpoint of that run.
quickstart: venv
	$(BIN)/python -m tera_pl fit --config configs/quickstart.yaml
	run=$$(ls -td $(RUN)/version_*/ | head -n 1); \
	$(BIN)/python -m tera_pl test --config $${run}config.yaml --ckpt_path $${run}checkpoints/best.ckpt

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	.venv/docstrings/bin/pydoclint --quiet tera_pl datamodules
	$(BIN)/codespell
	$(BIN)/python -m tests.wording
	$(BIN)/lint-imports
	$(BIN)/mypy

# For use while working: everything but the tests marked slow. tests/README.md.
check: lint
	$(PYTEST) -m "not slow" --ignore tests/peft_suite --durations=5

test: lint
	$(PYTEST)

# Takes hours: every method is killed at random moments and must resume to the same bits, thousands of
# changed configurations, random examples for every property, and all of PEFT's suite.
soak: venv
	TERA_PL_SOAK=1 $(PYTEST) --durations=50

# Resolve again; versions change only where they must, or with `make lock UPGRADE=--upgrade`. One
# resolution in two files: torch's CPU build needs nothing of the second. The requirements of the packages
# that not every machine can install (those of the second and of a Mac) are kept for tests/packaging.
UV := .cache/lock/bin/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
    --custom-compile-command "make lock" $(UPGRADE)
REPORT := .cache/lock/bin/python -m pip --isolated install --dry-run --ignore-installed --no-deps \
    --use-feature=fast-deps --only-binary=:all: --quiet --report -
lock: .cache/lock
	cat requirements.lock requirements-cuda.lock > .cache/all.lock
	$(UV) --extra all --group dev pyproject.toml --output-file .cache/all.lock
	$(UV) --group docstrings --output-file requirements-docstrings.lock
	awk '/^[^ #]/ {file = /^(torch|triton|(nvidia|cuda)-[a-z0-9-]+)==/ ? "requirements-cuda.lock" : \
	    "requirements.lock"} file {print > file}' .cache/all.lock
	$(REPORT) $$(grep -o '^[a-z0-9-]*==[^ ]*' requirements-cuda.lock) \
	    $$(sed -n "s/^\([a-z0-9-]*==[^ ]*\) ; sys_platform == 'darwin'.*/\1/p" requirements.lock) | \
	    $(PYTHON) -m tests.packaging.public_metadata

# After torch's version has changed.
lock-cpu: .cache/lock
	version=$$(sed -n 's/^torch==\([^ ]*\).*/\1/p' requirements-cuda.lock); \
	printf 'torch==%s+cpu; sys_platform == "linux"\ntorch==%s; sys_platform == "darwin"\n' $$version $$version | \
	$(UV) --no-deps --index-url $(TORCH_CPU_INDEX) --output-file requirements-cpu.lock -

.cache/lock:
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet uv==0.13.9 pip==26.3

clean:
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
