# Needs Python >= 3.10 and make, nothing else. `make help` lists the targets.
PYTHON ?= python3
ARGS ?=
SECONDS ?= 60
SEED ?=

VENV := .venv
BIN := $(VENV)/bin
PACKAGES := mariadb-server-core mariadb-client-core postgresql slurmctld slurmd slurmdbd slurm-client munge \
    openssh-client openssh-server faketime texlive-latex-recommended texlive-science \
    chromium fonts-dejavu-core
PROGRAMS := mariadbd my_print_defaults postgres slurmctld slurmd slurmdbd sbatch munged ssh sshd faketime pdflatex chromium
# Both are editable installs into one environment, so that neither shadows the other with a stale copy.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable
PYTEST := -m pytest --numprocesses 6 --dist worksteal
# The first Python of a version that runs: on PATH, or of pyenv, whose own python3.N on PATH fail unless they are enabled.
find_python = $(firstword $(foreach candidate,python$(1) $(wildcard $(HOME)/.pyenv/versions/$(1).*/bin/python),\
    $(shell $(candidate) -c 'import sys; print(sys.executable)' 2>/dev/null)))

# The tests start thousands of processes, each of which would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-all test-oldest test-predecessor stress mutants coverage check docs format clean packages

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-16s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.demo ## Run the example study (examples/svm_study) on SQLite
	$(BIN)/python examples/svm_study/run.py

test: $(VENV)/.dev packages ## Run all tests on real databases; ARGS='-k fill' is passed to pytest
	$(BIN)/python $(PYTEST) $(ARGS)

test-all: ## Run all tests with each Python from 3.10 on that is found here, each in its own environment
	@failed=; $(foreach version,3.10 3.11 3.12 3.13 3.14,$(foreach python,$(call find_python,$(version)),\
	    echo "Python $(version)"; \
	    $(MAKE) test PYTHON=$(python) VENV=.venv-$(version) || failed="$$failed $(version)";)) \
	[ -z "$$failed" ] || { echo >&2 "The tests failed with Python$$failed"; exit 1; }

test-oldest: packages ## Run all tests on Python 3.10 with the oldest dependencies that pyproject.toml allows
	$(or $(call find_python,3.10),$(error test-oldest needs Python 3.10)) -m venv --clear .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-oldest/bin/python -m uv pip install --quiet --compile-bytecode --resolution lowest-direct --editable '.[test]'
	.venv-oldest/bin/python $(PYTEST) $(ARGS)

stress: $(VENV)/.dev packages ## Run stress test and fuzzers longer: SECONDS=600 for each, SEED=1 to repeat, ARGS='-k sqlite'
	$(BIN)/python -m pytest tests/system/test_stress.py tests/system/test_fuzz_*.py --capture=no --timeout=0 \
	    --stress-seconds=$(SECONDS) $(if $(SEED),--stress-seed=$(SEED)) $(ARGS)

test-predecessor: $(VENV)/.dev packages ## Compare with the versions of py-experimenter that people come from; ARGS='--count 200'
	$(BIN)/python .ci/predecessor.py $(ARGS)

mutants: $(VENV)/.dev ## Change the core modules in small ways and see whether the tests notice: hours; ARGS='budget stopping'
	$(INSTALL) '.[mutants]'
	nice -n 19 $(BIN)/python .ci/mutants.py $(ARGS)

coverage: $(VENV)/.dev packages ## Run all tests and print which lines and branches they execute, by folder
	$(BIN)/coverage erase
	$(BIN)/coverage run $(PYTEST) $(ARGS); status=$$?; \
	$(BIN)/coverage combine --quiet && $(BIN)/coverage html --quiet && \
	$(BIN)/coverage json --quiet -o - | $(BIN)/python .ci/coverage_by_folder.py && exit $$status

check: $(VENV)/.dev ## Lint, check spelling, formatting, types and the layers of imports
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.dev ## Build the documentation into docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -q -n -W --keep-going -b html docs docs/_build/html

format: $(VENV)/.dev ## Format the code and apply the safe fixes of the linter
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean: ## Remove the environments, caches and builds
	rm -rf .venv .venv-* .mutants htmlcov .coverage* build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo >&2 \
	    "PyExperimenter needs Python >= 3.10, but '$(PYTHON)' is not. Choose one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo >&2 \
	    "'$(PYTHON)' cannot create environments with pip. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.created pyproject.toml
	$(INSTALL) '.[examples]'
	@touch $@

$(VENV)/.dev: $(VENV)/.created pyproject.toml
	$(INSTALL) '.[dev]'
	@touch $@

# A failure here is not fatal: the last lines of the tests say what was not tested. mariadb-install-db, of the server's
# package, calls my_print_defaults, of the client's; faketime gives a worker a wrong clock. PostgreSQL's package must not
# start a server. Nothing is installed for tests that look in given folders (see CONTRIBUTING.md).
packages:
	@PATH="$$PATH:/usr/sbin:$$(echo /usr/lib/postgresql/*/bin)"; \
	if [ -n "$${PYEXPERIMENTER_TEST_MARIADB_PATH+set}" ]; then :; \
	elif ! for program in $(PROGRAMS); do command -v $$program || echo missing; done | grep -q missing; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing $(PACKAGES) for the tests"; \
	    mkdir -p /etc/postgresql-common && { [ -e /etc/postgresql-common/createcluster.conf ] || \
	      echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf; }; \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	      apt-get install -y -qq --no-install-recommends $(PACKAGES) >/dev/null; } \
	    || echo >&2 "$(PACKAGES) could not be installed"; \
	fi
	@if command -v npm >/dev/null && [ ! -e $(VENV)/node_modules/.bin/yaml-language-server ]; then \
	    npm install --silent --no-fund --no-audit --prefix $(VENV) yaml-language-server@2.0.0 \
	    || echo >&2 "yaml-language-server could not be installed"; \
	fi
