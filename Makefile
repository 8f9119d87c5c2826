# Everything a newcomer needs: `make quickstart`, then `make test`.
PYTHON ?= python3
BIN := .venv/bin
RUN := runs/quickstart

.PHONY: venv quickstart test soak check lock clean

venv: .venv/.installed

# docstring_parser_fork goes last: pydoclint needs it over docstring_parser, whose name jsonargparse
# looks for. The lock pins every package; the project itself is installed in place, so edits take effect.
.venv/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --force-reinstall docstring_parser_fork==0.0.16
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Train TeRA on the embedded benchmark, then test the best checkpoint of that run.
quickstart: venv
	$(BIN)/python -m tera_pl fit --config configs/quickstart.yaml
	run=$$(ls -td $(RUN)/version_*/ | head -n 1); \
	$(BIN)/python -m tera_pl test --config $${run}config.yaml --ckpt_path $${run}checkpoints/best.ckpt

# One process per core and one thread in each: two that share cores wait for each other.
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# Half an hour: every method is killed at random moments and must go on to the same bits, and 2,000
# changed configurations and files run as given or are one line.
soak: venv
	TERA_PL_SOAK=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto tests/test_kill.py tests/test_fuzz.py

check: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pydoclint tera_pl datamodules
	$(BIN)/codespell
	$(BIN)/lint-imports
	$(BIN)/mypy

clean:
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
