# `make` alone lists what there is.  Everything runs in .venv, which `setup` makes.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.made
# The interpreters that may make $(VENV), the first that works.
WITH := python3.14 python3.13 python3.12 python3.11 python3
CRASH_SEED := $(shell date -u +%Y%m%d)
# One more than the processors of the slowest machine on which the suite is run: tests
# wait for processes, disks and timers for a fifth of their time.
WORKERS := 3
# Tests start hundreds of processes; without bytecode each would compile Milepost anew.
export PYTHONDONTWRITEBYTECODE :=

# What is in .venv names this folder by its full path: copied or moved along with it, it
# would run the code of the place where it came from.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(shell pwd -P))
.PHONY: $(STAMP)
endif

# Agent frameworks, each with an environment and constraints of its own: their
# dependencies never enter $(VENV).
ADAPTERS := claude openai-agents pydantic-ai adk

.PHONY: help setup demo test slow crash quick lint bytecode bench bench-langgraph peers \
  adapters clean
.PHONY: $(ADAPTERS:%=adapter-%)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s  %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## make .venv and install Milepost and its tools

demo: $(STAMP) ## kill a real job half way, resume it, compare (DEMO_ARGS=--help)
	@$(PYTHON) -m demo $(DEMO_ARGS)

test: $(STAMP) ## lint, types, imports, and all tests but the slow ones
	@$(MAKE) -j 2 lint bytecode
	@echo "== pytest"
	@$(PYTHON) -m pytest -m "not slow" -n $(WORKERS) $(TEST_ARGS)

slow: $(STAMP) ## the long tests: more crash states, mutants, kill loops, histories
	@$(PYTHON) -m pytest -m slow -n $(WORKERS) $(TEST_ARGS)
	@$(MAKE) adapters

adapters: $(ADAPTERS:%=adapter-%) ## the adapters, each with its framework (adapter-claude: one)

$(ADAPTERS:%=adapter-%): adapter-%: build/adapters/%/.made
	@echo "== adapter $*"
	@build/adapters/$*/bin/python -m pytest -m "" -W default --confcutdir tests/adapters \
	  tests/adapters/$(subst -,_,$*) $(TEST_ARGS)

build/adapters/%/.made: pyproject.toml constraints/adapters-%.txt | $(STAMP)
	@echo "making build/adapters/$*"
	@$(PYTHON) -m venv --clear build/adapters/$*
	@build/adapters/$*/bin/python -m pip install --disable-pip-version-check --quiet \
	  --constraint constraints/adapters-$*.txt --editable '.[$*]' pytest pytest-timeout
	@touch $@

crash: $(STAMP) ## every legal disk after a crash, over a million, of a new seed each day
	@echo "crash seed $(CRASH_SEED)"
	@$(PYTHON) -m pytest -m "not slow" -n $(WORKERS) --crash-states 60000 \
	  --crash-seed $(CRASH_SEED) tests/crash $(TEST_ARGS)

quick: $(STAMP) ## the tests alone, without linters and types (TEST_ARGS="-k retention")
	@$(PYTHON) -m pytest -m "not slow" -n $(WORKERS) $(TEST_ARGS)

lint: $(STAMP) ## ruff, mypy and the import contracts
	@echo "== ruff"
	@$(PYTHON) -m ruff check
	@$(PYTHON) -m ruff format --check
	@echo "== mypy"
	@$(PYTHON) -m mypy
	@echo "== import contracts"
	@$(VENV)/bin/lint-imports

# The linters leave a processor idle, and workers that start without bytecode would each
# compile all tests.  What is wrong with a test, the run of the tests tells.
bytecode: $(STAMP)
	@$(PYTHON) -m pytest --collect-only -qq >/dev/null 2>&1 || true

bench: $(STAMP) ## measure side by side with the peers that are installed
	@$(PYTHON) -m benchmarks $(BENCH_ARGS)

bench-langgraph: $(STAMP) ## measure the saver for LangGraph beside LangGraph's own
	@$(PYTHON) -m benchmarks.langgraph $(BENCH_ARGS)

peers: $(STAMP) ## install into .venv what bench measures beside Milepost
	@$(PYTHON) -m pip install --disable-pip-version-check --quiet \
	  --constraint constraints.txt --editable '.[bench]'

clean: ## remove .venv, caches and the demo's data
	@rm -rf .venv build dist demo-data .pytest_cache .mypy_cache .ruff_cache \
	  .hypothesis .import_linter_cache
	@find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# A .venv that an interrupted setup left is completed; one that comes from elsewhere, or
# whose Python is gone or too old, is made anew.
$(STAMP): pyproject.toml constraints.txt
	@usable='import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'; \
	if ! $(PYTHON) -c "$$usable" 2>/dev/null \
	  || ! $(PYTHON) -m pip --version >/dev/null 2>&1 \
	  || [ "$$(cat $(STAMP) 2>/dev/null || pwd -P)" != "$$(pwd -P)" ]; then \
	  for python in $(WITH); do \
	    if "$$python" -c "$$usable" 2>/dev/null; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "Milepost needs Python 3.11 or later, with its venv module" \
	      "(Debian, Ubuntu: apt-get install python3 python3-venv)" >&2; \
	    exit 1; \
	  fi; \
	  echo "making $(VENV) with $$("$$found" --version)"; \
	  "$$found" -m venv --clear $(VENV) || exit 1; \
	fi; \
	rm -f $(STAMP); \
	printf 'installing'; \
	exec 4>&1; \
	status=$$( { { \
	    $(PYTHON) -m pip install --disable-pip-version-check --progress-bar off \
	      --constraint constraints.txt --editable '.[dev]' 2>&1; \
	    echo $$? >&3; \
	  } | tee $(VENV)/pip.log | while read -r word name rest; do \
	    case $$word in \
	      Collecting) printf ' %s' "$${name%%[!A-Za-z0-9_-]*}" ;; \
	      Processing) name=$${name##*/}; printf ' %s' "$${name%%-[0-9]*}" ;; \
	      WARNING:) [ "$$name" != Retrying ] || printf '\n%s\n' "$$name $$rest" ;; \
	    esac; \
	  done >&4; } 3>&1 ); \
	echo; \
	if [ "$$status" != 0 ]; then \
	  tail -n 20 $(VENV)/pip.log >&2; \
	  echo "setup failed; all that pip said is in $(VENV)/pip.log" >&2; \
	  exit 1; \
	fi; \
	pwd -P > $(STAMP); \
	echo "ready: $$($(PYTHON) --version) in $(VENV)"
