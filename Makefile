# `make` lists the targets. Everything lands in .venv, build and dist, which git ignores.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
HARD_ARGS ?=
PARALLEL := --numprocesses auto --maxprocesses 4 --dist worksteal

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
export PIP_DISABLE_PIP_VERSION_CHECK := 1

BIN := $(VENV)/bin
BASE := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
PINS := setup.cfg pyproject.toml constraints.txt
PACKAGES := robustbench_lite attacks defenses leaderboard
WHEEL_VENV := build/wheel-venv
AUDIT_VENV := build/audit-venv
BROWSER := tests/browser
CHROMIUM ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
# Folders too, so that a deleted file rebuilds the wheel.
SHIPPED = $(shell find $(PACKAGES) -name __pycache__ -prune -o -print)

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

.PHONY: demo
demo: $(BASE) ## install, then train, attack and rank three networks: minutes, no download of data
	$(BIN)/rbl demo

.PHONY: install
install: $(DEV) ## the package, editable, with test and developer tools, in .venv

# PYTEST_ARGS of your own choose the tests, slow ones among them.
.PHONY: test
test: $(DEV) ## the test suite but for slow tests; PYTEST_ARGS="tests/attacks/test_pgd.py -k box" for a part
ifeq ($(PYTEST_ARGS),)
	@echo "make: the slow tests (kill -9 of whole runs, full disk) are left out: make test-slow runs them"
endif
	$(BIN)/python -m pytest $(or $(PYTEST_ARGS),$(PARALLEL) -m "not slow")

.PHONY: test-slow
test-slow: $(DEV) ## only the slow tests: killed runs, full disk
	$(BIN)/python -m pytest -m slow $(or $(PYTEST_ARGS),$(PARALLEL))

.PHONY: test-hard
test-hard: $(DEV) ## all tests on other vector units, threads, orders and a busy machine: about an hour
	$(BIN)/python benchmarks/hard_suite.py $(HARD_ARGS)

.PHONY: gpu-test
gpu-test: $(DEV) ## the self-test and the tests that need a CUDA device, on one
	$(BIN)/rbl selftest --device cuda
	$(BIN)/python -m pytest -m gpu $(PYTEST_ARGS)

.PHONY: selftest
selftest: $(DEV) ## the attacks against networks whose robust accuracy is known
	$(BIN)/rbl selftest

.PHONY: lint
lint: $(DEV) ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: wheel
wheel: dist/.built ## sdist and wheel, in dist

.PHONY: typecheck
typecheck: $(WHEEL_VENV)/.installed ## mypy --strict on the built wheel (the checkout's folders are mapped)
	bin=$$(cd $(BIN) && pwd) && cd $(WHEEL_VENV) && \
	"$$bin/mypy" --strict --python-executable bin/python --cache-dir ../mypy-cache -p robustbench_lite

.PHONY: smoke
smoke: $(WHEEL_VENV)/.installed ## the wheel's commands, run outside the checkout
	.ci/smoke $(WHEEL_VENV)/bin

.PHONY: test-browser
test-browser: check-browser $(DEV) $(BROWSER)/node_modules/.installed ## the leaderboard page in chromium; needs node 20 and chromium
	PYTHONPATH=tests:tests/leaderboard $(BIN)/python $(BROWSER)/pages.py build/pages
	PAGES=build/pages CHROMIUM=$(CHROMIUM) node --test $(BROWSER)/

.PHONY: audit
audit: $(AUDIT_VENV)/.installed ## known advisories for every pin; needs PyPI's advisory service
	$(AUDIT_VENV)/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

.PHONY: clean
clean: ## what the targets above built, .venv included
	rm -rf .venv build dist robustbench_lite.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf $(BROWSER)/node_modules

# -- environments ------------------------------------------------------------------------------

define CHECK_PYTHON
@$(PYTHON) -c '' 2>/dev/null || { \
	echo "make: '$(PYTHON)' does not run; Python 3.11 or newer is needed: make PYTHON=/path/to/python3" >&2; exit 1; }
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1), but 3.11 or newer is needed: make PYTHON=python3.11" >&2; exit 1; }
@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	echo "make: $(PYTHON) has no venv module (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
endef

$(VENV)/pyvenv.cfg:
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $(VENV)

$(BASE): $(VENV)/pyvenv.cfg $(PINS)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(DEV): $(VENV)/pyvenv.cfg $(PINS)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test,dev,notebooks,onnx,hub,tensorboard,completion]'
	@touch $(BASE) $@

# By way of the sdist: a stale build/lib cannot leak in, and the sdist is tested with it.
dist/.built: $(DEV) $(SHIPPED)
	rm -rf dist
	$(BIN)/python -m build --outdir dist . >/dev/null
	@ls dist && touch $@

# The wheel alone, with the dependencies of .venv on its path: nothing heavy is installed twice,
# and the editable install of .venv is not seen (a path line runs no .pth file there).
$(WHEEL_VENV)/.installed: dist/.built
	rm -rf $(WHEEL_VENV)
	$(BIN)/python -m venv --without-pip $(WHEEL_VENV)
	$(BIN)/python -m pip --python $(WHEEL_VENV)/bin/python install --quiet --no-deps dist/*.whl
	paths='import sysconfig as s; print(s.get_path("purelib"), s.get_path("platlib"), sep="\n")'; \
	target=$$($(WHEEL_VENV)/bin/python -c 'import sysconfig as s; print(s.get_path("purelib"))'); \
	$(BIN)/python -c "$$paths" > "$$target/dependencies.pth"
	@touch $@

$(AUDIT_VENV)/.installed: constraints.txt
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $(AUDIT_VENV)
	$(AUDIT_VENV)/bin/python -m pip install --quiet -c constraints.txt pip-audit
	@touch $@

.PHONY: check-browser
check-browser:
	@node -e 'process.exit(+(parseInt(process.versions.node) < 20))' 2>/dev/null \
	&& command -v npm >/dev/null && test -n "$(CHROMIUM)" || { \
		echo "make: test-browser needs chromium, node 20 or newer and npm (Debian: apt install chromium nodejs npm)" >&2; exit 1; }

$(BROWSER)/node_modules/.installed: $(BROWSER)/package.json $(BROWSER)/package-lock.json | check-browser
	cd $(BROWSER) && npm ci --silent --no-audit --no-fund
	@touch $@
