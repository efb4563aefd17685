# make help lists the targets.
PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV := build/venv-$(VERSION)
STAMP := $(VENV)/.installed
EXTENSION := build/extension-$(VERSION)
SOURCES := $(wildcard native/*.[ch] src/memcg/binding/*) meson.build

.PHONY: help demo test test-all lint clean
help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check 'pytest>=8' numpy mypy ruff meson ninja 'cython>=3.1' uvloop
	touch $@

# The extension beside the sources, where PYTHONPATH=src finds it.
$(EXTENSION)/.built: $(STAMP) $(SOURCES)
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" meson setup $(EXTENSION) $(if $(wildcard $(EXTENSION)/build.ninja),--reconfigure) >/dev/null
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" meson compile -C $(EXTENSION) >/dev/null
	install $(EXTENSION)/_core*.so src/memcg/
	touch $@

demo: $(EXTENSION)/.built ## tenants beside a hog, then the life of one child cache, both live
	PYTHONPATH=src $(VENV)/bin/python examples/tenants.py
	@echo
	PYTHONPATH=src $(VENV)/bin/python examples/child_cache.py

test: $(EXTENSION)/.built ## set everything up and pass the tests
	$(MAKE) -C native check
	$(VENV)/bin/python -m pytest

test-all: ## the tests on 3.11, 3.12 and 3.13
	for v in 3.11 3.12 3.13; do $(MAKE) test PYTHON=python$$v || exit 1; done

lint: $(STAMP) ## ruff and mypy
	$(VENV)/bin/ruff check src tests examples
	$(VENV)/bin/mypy

clean: ## remove what was built
	rm -rf build native/build src/memcg/*.so
