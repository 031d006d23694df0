# make demo: set up, then train, evaluate and report on made-up brains. make test: set up, then pass the tests.
# Needs python 3.11 or newer and make. `make test PYTHON=python3.13` chooses another interpreter.
SHELL := /bin/sh
NEW_ENOUGH := -c "import sys; sys.exit(sys.version_info < (3, 11))"
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell $(p) $(NEW_ENOUGH) 2>/dev/null && echo $(p))))
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check
# Python 3.11 ends at jax 0.10; later ones share a newer set
LOCK := requirements-$(shell $(PYTHON) -c "import sys; print('py311' if sys.version_info < (3, 12) else 'py312')").lock

.PHONY: demo test lint setup lock clean

demo: $(VENV)/ready
	$(BIN)/python main.py --config configs/phantom.py

test: lint
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -q

lint: $(VENV)/ready-test
	$(BIN)/ruff check .

setup: $(VENV)/ready

$(VENV)/ready: requirements.txt $(LOCK)
	@test -n "$(PYTHON)" || { echo "python 3.11 or newer is needed; name it: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r $(LOCK)
	touch $@

$(VENV)/ready-test: $(VENV)/ready requirements-test.txt
	$(PIP) -c $(LOCK) -r requirements-test.txt
	touch $@

# Resolves requirements.txt anew for this interpreter; run it with 3.11 and with 3.12.
lock:
	$(PYTHON) -m venv --clear $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install -q --disable-pip-version-check -r requirements.txt
	$(VENV)-lock/bin/python -m pip freeze > $(LOCK)
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) $(VENV)-lock runs
