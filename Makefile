# Every target builds what it needs from Python 3.11 or newer alone; `make` prints the list.
#
# Pass arguments on with UP_ARGS, TEST_ARGS, PROVE_ARGS, BENCH_ARGS, LOCK_ARGS:
#   make up UP_ARGS="--http 127.0.0.1:9000"      make test TEST_ARGS="-k selector"

.DEFAULT_GOAL := help
.PHONY: help env up test lint prove soak bench lock clean distclean

BIN := .venv/bin
TEST_WORKERS ?= 2

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: ## build or update .venv; at once when nothing has changed (PYTHON=... chooses the interpreter)
	@PYTHON="$(PYTHON)" .ci/env

up: env ## a whole cluster on this machine, at http://127.0.0.1:8700; Ctrl-C stops all of it
	@exec $(BIN)/interlock up $(UP_ARGS)

test: env ## every test but the slow and the soaking ones
	@$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadgroup $(TEST_ARGS)

lint: env ## ruff, mypy --strict, import-linter
	@failed=0; for check in "ruff check ." "ruff format --check ." "mypy --strict" "lint-imports --no-logo"; do \
		echo "$$check"; $(BIN)/$$check || failed=1; \
	done; exit $$failed

prove: env ## explore the bundled scopes state by state, and hunt every seeded bug
	@$(BIN)/interlock prove $(PROVE_ARGS)
	@$(BIN)/interlock mutants

soak: env ## the tests that run for minutes on purpose
	@$(BIN)/python -m pytest -m soak --timeout 3600 $(TEST_ARGS)

bench: env ## every benchmark, each figure beside its limit
	@exec $(BIN)/interlock bench $(BENCH_ARGS)

lock: env ## write requirements.lock anew; LOCK_ARGS=--upgrade moves the pins
	@$(BIN)/uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --group dev --extra embeddings --extra nvml \
		pyproject.toml --no-header --generate-hashes -o requirements.lock $(LOCK_ARGS)

clean: ## remove caches and build outputs; keeps .venv and the data in .interlock
	@rm -rf dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## clean, and remove .venv too
	@rm -rf .venv
