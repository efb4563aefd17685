# make help lists the targets.
PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV := build/venv-$(VERSION)
STAMP := $(VENV)/.installed
HOSTS := build/hosts-$(VERSION)
SITE := build/docs-$(VERSION)
COVERAGE := build/coverage-$(VERSION)
EXTENSION := build/extension-$(VERSION)
SOURCES := $(wildcard native/*.[ch] native/preload/*.[ch] src/memcg/core/*.pyx src/memcg/core/*.pxd src/memcg/core/binding/*) meson.build

.PHONY: help demo test test-long test-hosts coverage-table pythons wheels test-all verify mutants native-mutants statements docs native-stress soak foreign foreign-limits bench bench-quick bench-instructions lint format clean
help: ## list the targets
	@grep -E '^[a-z -]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

# The extras of pyproject.toml that a checkout needs.
EXTRAS := build test lint
$(STAMP) $(HOSTS)/.installed $(SITE)/.installed $(COVERAGE)/.installed: pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -c 'import sys, tomllib; extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; print(*(line for name in sys.argv[1:] for line in extras[name]), sep="\n")' $(EXTRAS) >$(@D)/requirements.txt
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $(@D)/requirements.txt
	touch $@
$(HOSTS)/.installed: EXTRAS := test hosts
$(SITE)/.installed: EXTRAS := docs
$(COVERAGE)/.installed: EXTRAS := test coverage

# Run a tool of the environment; what it prints is shown if it fails.
quietly = PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(1) >$(EXTENSION).log || { cat $(EXTENSION).log >&2; exit 1; }

# The extension beside the sources, where PYTHONPATH=src finds it.
$(EXTENSION)/.built: $(STAMP) $(SOURCES)
	$(call quietly,meson setup $(EXTENSION) $(if $(wildcard $(EXTENSION)/build.ninja),--reconfigure))
	$(call quietly,meson compile -C $(EXTENSION))
	install $(EXTENSION)/_core*.so $(EXTENSION)/libmemcg*.so src/memcg/core/
	touch $@

demo: $(EXTENSION)/.built ## show tenants beside a hog, then the life of one child cache
	PYTHONPATH=src $(VENV)/bin/python examples/tenants.py
	@echo
	PYTHONPATH=src $(VENV)/bin/python examples/child_cache.py

# This many tests or compilers run at a time. Tests that measure time wait until they are alone.
JOBS ?= 2
test: $(EXTENSION)/.built ## set everything up and run the tests, JOBS=2 at a time
	$(MAKE) -j$(JOBS) -C native check
	$(VENV)/bin/python -m pytest -n $(JOBS)

test-long: $(EXTENSION)/.built ## run the longer forms of some tests: more rounds, schedules and sizes
	$(VENV)/bin/python -m pytest -n $(JOBS) -x -m long

# Debian's packages that the hosts' tests start. Without wrk one test is skipped.
DEBS ?= prometheus redis-server tmux chromium wrk zsh
test-hosts: $(EXTENSION)/.built $(HOSTS)/.installed ## run memcg in web servers, notebooks, clusters, ..., which it installs; TESTS="..."
	sh tools/debs.sh $(DEBS)
	$(HOSTS)/bin/python -m pytest -n $(JOBS) -m hosts $(or $(TESTS),tests/hosts src/memcg/integrations)

# PyPI's torch brings CUDA's libraries. PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu does without them.
coverage-table: $(EXTENSION)/.built $(COVERAGE)/.installed ## measure what 28 workloads of libraries hold and is charged; ONLY="..."
	PYTHONPATH=src $(COVERAGE)/bin/python benchmarks/coverage/table.py $(or $(ONLY),--page)

# STRICT=1: a version that cannot be had is an error.
pythons: $(STAMP) ## get CPython 3.14 and 3.15 below build/pythons where the machine has none
	$(VENV)/bin/python tools/pythons.py $(if $(STRICT),--strict) 3.14 3.15

# STRICT=1: the same. SUITE=1 runs the tests from each wheel too, WITH_EXTRAS=1 tries each extra.
wheels: pythons ## build the sdist and wheels for 3.11 to 3.15 in build/wheels, and try each in an empty environment
	$(VENV)/bin/python tools/wheels.py $(if $(STRICT),--strict) $(if $(SUITE),--suite) $(if $(WITH_EXTRAS),--extras)

test-all: pythons ## run the tests on 3.11 to 3.15; name those that are not here; STRICT=1: fail for them
	missing=; for v in 3.11 3.12 3.13 3.14 3.15; do \
	  if python=$$($(VENV)/bin/python tools/pythons.py --where $$v); then $(MAKE) test PYTHON="$$python" || exit 1; \
	  else missing="$$missing $$v"; fi; \
	done; [ -z "$$missing" ] || { echo "not tested, for they are not on this machine:$$missing"; [ -z "$(STRICT)" ]; }

verify: $(EXTENSION)/.built ## explore the scheme under every schedule; show the old scheme's and the patch's flaws
	PYTHONPATH=src $(VENV)/bin/python -m memcg verify --long

mutants: $(EXTENSION)/.built ## take out every lock, check, reference and wake-up in turn: a test must notice
	$(VENV)/bin/python tools/mutants.py

native-mutants: $(STAMP) ## take out every fence, order, store, count, check and lock of the core of native/ in turn: a test must notice
	$(VENV)/bin/python tools/native_mutants.py

statements: $(EXTENSION)/.built ## break each statement in turn: a test or scenario with its number must notice
	$(VENV)/bin/python tools/statements.py

docs: $(EXTENSION)/.built $(SITE)/.installed ## write what is generated in docs/, then build the site in build/site; a warning is an error
	PYTHONPATH=src $(VENV)/bin/python tools/locking_doc.py
	PYTHONPATH=src $(VENV)/bin/python tools/statements_doc.py
	PYTHONPATH=src $(SITE)/bin/python -m sphinx -W --keep-going -q docs build/site

native-stress: ## run the data plane under random load, as it ships and under the sanitizers; OPERATIONS=10^8 each
	$(MAKE) -C native stress OPERATIONS=$(or $(OPERATIONS),100000000)

soak: $(EXTENSION)/.built ## run an hour of a server-like load, SOAK=seconds; then FORKS=10000 under threads
	PYTHONPATH=src $(VENV)/bin/python tests/long/soak.py --seconds $(or $(SOAK),3600)
	FORKS=$(or $(FORKS),10000) $(VENV)/bin/python -m pytest tests/hostile -k forks

# An interpreter that make pythons has unpacked lacks CPython's own tests until then.
foreign: $(EXTENSION)/.built ## run other people's suites (CPython, NumPy, ...) with memcg and without; SUITES="..."
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check hypothesis pandas simplejson tornado networkx
	$(VENV)/bin/python tools/pythons.py --tests --strict $(VERSION)
	for s in $(or $(SUITES),cpython numpy pandas simplejson tornado networkx); do PYTHONPATH=src $(VENV)/bin/python tools/foreign.py $$s || failed=1; done; exit $$failed

# Suite:limit for its tests. Without the limit each takes more memory.
LIMITS := pandas:48MiB numpy:64MiB simplejson:8MiB tornado:40MiB networkx:48MiB
foreign-limits: $(EXTENSION)/.built ## run the same suites in groups that are too small: no crash, no hang, accounts right
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check hypothesis pandas simplejson tornado networkx
	for s in $(LIMITS); do PYTHONPATH=src $(VENV)/bin/python tools/foreign.py $${s%:*} --limit $${s#*:} --timeout 3600 || failed=1; done; exit $$failed

BENCH := build/bench
bench bench-quick: $(EXTENSION)/.built ## run memcg beside its peers and write docs/benchmark-tables.md; quick: a summary in some minutes
	sh benchmarks/peers.sh $(BENCH) $(PYTHON) $(if $(filter bench-quick,$@),--quick)
	$(BENCH)/venv/bin/python benchmarks/run.py $(if $(filter bench-quick,$@),--quick)
	$(if $(filter bench,$@),$(BENCH)/venv/bin/python benchmarks/run.py --page)

bench-instructions: $(EXTENSION)/.built ## count the instructions of the fast paths and of a group's life; UPDATE=1, BUDGET=file
	$(VENV)/bin/python benchmarks/instructions.py $(if $(UPDATE),--update) $(if $(BUDGET),--budget "$(BUDGET)")

PYTHON_FILES := src tests examples benchmarks tools
C_FILES = $(shell find native src tests benchmarks -name '*.[ch]' -not -path '*/build/*')
lint: $(STAMP) ## run ruff, mypy, clang-format and codespell; they change nothing
	$(VENV)/bin/ruff check $(PYTHON_FILES)
	$(VENV)/bin/ruff format --check $(PYTHON_FILES)
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run -Werror $(C_FILES)
	$(VENV)/bin/codespell

format: $(STAMP) ## run ruff format and clang-format, in place
	$(VENV)/bin/ruff format $(PYTHON_FILES)
	$(VENV)/bin/clang-format -i $(C_FILES)

clean: ## remove what was built
	rm -rf build native/build src/memcg/core/*.so
