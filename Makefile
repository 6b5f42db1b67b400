# Everything runs in a local .venv; `make demo` and `make test` need nothing but Python >= 3.11 (with venv) and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
JOBS ?= 2

.PHONY: demo test slow lint bench smoke conformance laws mutants campaign interrupts sound shared necessity tribunal costs pokes check-python clean

demo: $(VENV)/run.stamp
	@$(BIN)/optprobe demo

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -p no:cacheprovider

# The tests marked slow: larger bounds and more instances of what `make test` has a smaller case of.
slow: $(VENV)/test.stamp
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -p no:cacheprovider -m slow

lint: $(VENV)/lint.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(VENV)/test.stamp
	$(BIN)/python -m pytest bench -q -p no:cacheprovider --benchmark-only --benchmark-columns=min,median,rounds,ops

conformance: $(VENV)/test.stamp
	@$(BIN)/python -m tests.probes.conformance

# Faults planted one at a time, and a table of who finds each; goes on where it was. MUTANTS="--quick" or a word of a fault's name for less.
mutants: $(VENV)/test.stamp
	@$(if $(MUTANTS),true,$(BIN)/python -m tests.engine.mutants)
	@$(BIN)/python -m tests.faults.run --jobs $(JOBS) $(MUTANTS)

# Every optimizable site of every shipped workload; goes on where it was. CAMPAIGN="--profile linux-6.1 --file other.jsonl" for more.
campaign: $(VENV)/run.stamp
	@$(BIN)/python -m bench.program campaign $(CAMPAIGN)

# Ctrl-C at random moments of each command. INTERRUPTS="--seed 3 --moments 2 verify" for others, fewer, and only some commands.
interrupts: $(VENV)/run.stamp
	@$(BIN)/python -m tests.cli.interrupts $(INTERRUPTS)

# The outcomes of reduced and unreduced searches of shipped scenarios, compared; and patch protocols at each offset of a line.
laws: $(VENV)/test.stamp
	@$(BIN)/python -m tests.explore.laws
	@$(BIN)/python -m tests.explore.patch_laws

sound: $(VENV)/run.stamp
	@$(BIN)/python -m bench.program soundness $(SOUND)

# Functions that share data, on two vCPUs and with preemption, and with a hit lost on purpose. SHARED="-1 rand" for a bound of 1 and only these.
shared: $(VENV)/test.stamp
	@$(BIN)/python -m tests.explore.shared_functions $(SHARED)

# The tables of docs/necessity.md and docs/findings.md, in Markdown, from a fresh run of the matrix. NECESSITY="--fetch torn" for another fetch model, "--protocols" for the patch protocols.
necessity: $(VENV)/run.stamp
	@$(BIN)/python -m bench.program necessity $(NECESSITY)

# The kernel's patch protocols in every fetch model, two vCPUs to the end and four by PCT. POKES="--schedules 100000" for more.
pokes: $(VENV)/run.stamp
	@$(BIN)/python -m bench.program pokes $(POKES)

# What a patch protocol costs other CPUs, by the number of sites. COSTS="--plot FILE" for a picture, too.
costs: $(VENV)/run.stamp
	@$(BIN)/python -m bench.program poke_costs $(COSTS)

# The table and the timelines of docs/tribunal.md, in Markdown: every design of a patch protocol in every fetch model. TRIBUNAL="--design one_store" for one.
tribunal: $(VENV)/run.stamp
	@$(BIN)/python -m bench.program tribunal $(TRIBUNAL)

# The built wheel, without the source tree's packages on the path.
smoke: $(VENV)/lint.stamp
	sh tests/smoke.sh $(PYTHON)

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'optprobe needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ...' >&2; exit 2; }

$(VENV)/bin/python: | check-python
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp
	$(PIP) install -c constraints.txt pytest pytest-xdist hypothesis pytest-benchmark iced-x86
	@touch $@

$(VENV)/lint.stamp: $(VENV)/test.stamp
	$(PIP) install -c constraints.txt ruff pyright import-linter coverage build hatchling
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
