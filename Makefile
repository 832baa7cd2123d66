# Two commands: `make demo` and `make test`. Each makes the environment it needs in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two processes of one thread each: faster than one process of two threads, on the small tensors of tests.
TEST_ENV := OMP_NUM_THREADS=1

.PHONY: demo test lint browser postgres clean

demo: $(VENV)/.installed
	$(BIN)/autotune demo

test: $(VENV)/.installed-dev lint browser postgres
	$(TEST_ENV) $(BIN)/pytest -n 2 --dist loadfile

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy autotune policies benchmarks

# MLflow's page is looked at in Debian's Chromium; without one those tests are skipped, but fail in CI.
browser:
	@command -v chromium > /dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } \
		> /dev/null 2>&1 || echo "no chromium, and it cannot be installed: tests in a browser are skipped"

# A run's record in a database is tested with Debian's PostgreSQL; skipped without one, but not in CI.
postgres:
	@ls $$(command -v initdb) /usr/lib/postgresql/*/bin/initdb 2> /dev/null | grep -q . \
		|| { apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql; } > /dev/null 2>&1 \
		|| echo "no postgresql, and it cannot be installed: tests with a database are skipped"

# PyTorch goes first, so that no other package asks for a build of another kind.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
