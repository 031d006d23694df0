# make demo: set up, then train, evaluate and report on made-up brains. make test: set up, then pass the tests.
# Needs python 3.11 or newer and make. `make test PYTHON=python3.13 VENV=.venv-3.13` chooses another interpreter.
SHELL := /bin/sh
NEW_ENOUGH := -c "import sys; sys.exit(sys.version_info < (3, 11))"
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell $(p) $(NEW_ENOUGH) 2>/dev/null && echo $(p))))
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check
# Python 3.11 ends at jax 0.10; later ones share a newer set
LOCK := requirements-$(shell $(PYTHON) -c "import sys; print('py311' if sys.version_info < (3, 12) else 'py312')").lock

# An environment keeps the interpreter that made it.
VERSION := -c "import sys; print('%d.%d' % sys.version_info[:2])"
MADE := $(if $(wildcard $(BIN)/python),$(shell $(BIN)/python $(VERSION)))
CHOSEN := $(shell $(PYTHON) $(VERSION))
OTHER := $(filter-out $(CHOSEN),$(MADE))
ifneq ($(OTHER),)
ifeq ($(filter clean lock,$(MAKECMDGOALS)),)
$(error $(VENV) holds Python $(OTHER), not $(CHOSEN): make clean, or name another folder, VENV=.venv-$(CHOSEN))
endif
endif

.PHONY: demo test test-sets test-oracles test-package lint setup lock clean

demo: $(VENV)/ready
	$(BIN)/python main.py --config configs/phantom.py

test: lint
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

# Scores against MONAI's too, which with torch is too heavy for everyday tests, and against BraTS' own of 2025, which
# needs another numpy and pandas and is under the AGPL; each in a venv of its own.
test-oracles: $(VENV)-oracles/ready $(VENV)-brats/ready
	$(VENV)-brats/bin/python -m pytest -q -rs tests/test_matched.py
	JAX_PLATFORMS=cpu $(VENV)-oracles/bin/python -m pytest -q -rs tests/test_overlap.py tests/test_surface.py

# Every made-up set of tests/made_sets.py trained by its own plan: about ten minutes of compilation on two cores.
test-sets: $(VENV)/ready-test
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -q -n 2 -m slow tests/test_auto.py

# Wheel and sdist, installed into an empty environment and tried beside another project's configs/.
test-package:
	$(PYTHON) tests/try_package.py $(LOCK)

$(VENV)-oracles/ready: $(LOCK) requirements-test.txt tests/oracles.txt
	$(PYTHON) -m venv --clear $(VENV)-oracles
	$(VENV)-oracles/bin/python -m pip install -q --disable-pip-version-check -c $(LOCK) -r $(LOCK) \
		-r requirements-test.txt -r tests/oracles.txt
	touch $@

$(VENV)-brats/ready: tests/oracles-brats.txt
	$(PYTHON) -m venv --clear $(VENV)-brats
	$(VENV)-brats/bin/python -m pip install -q --disable-pip-version-check -r tests/oracles-brats.txt
	touch $@

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

# Ours by its own plan against MONAI's U-Net after equal time, on the images of a folder: `make accuracy ROOT=DIR`, or with
# `OPTIONS="--folds=0 --minutes=6"` more of benchmarks/accuracy.py. Ten minutes a fold and side, four folds.
.PHONY: accuracy
accuracy: $(VENV)-accuracy/ready
	$(VENV)-accuracy/bin/python benchmarks/accuracy.py --root="$(ROOT)" $(OPTIONS)

$(VENV)-accuracy/ready: $(LOCK) tests/oracles.txt
	$(PYTHON) -m venv --clear $(VENV)-accuracy
	echo '*' > $(VENV)-accuracy/.gitignore
	$(VENV)-accuracy/bin/python -m pip install -q --disable-pip-version-check -c $(LOCK) -r $(LOCK) -r tests/oracles.txt
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-lock $(VENV)-oracles $(VENV)-accuracy $(VENV)-brats $(COMPILED) runs

# Against PyTorch, MONAI, segmentation-models-pytorch and nnU-Net, in a venv of its own; about 45 minutes on two quiet
# cores.
# The tables go to benchmarks/results/. `make benchmark ROOT=DIR` trains end to end on the images of a COCO folder.
BENCHMARK := .venv-benchmark
.PHONY: benchmark
benchmark: $(BENCHMARK)/ready
	for case in 2d 3d; do $(BENCHMARK)/bin/python benchmarks/step.py --case=$$case || exit 1; done
	for case in 2d 3d; do $(BENCHMARK)/bin/python benchmarks/operators.py --case=$$case || exit 1; done
	$(BENCHMARK)/bin/python benchmarks/end_to_end.py --root=$(ROOT)
	$(BENCHMARK)/bin/python benchmarks/inference.py
	$(BENCHMARK)/bin/python benchmarks/startup.py --root=$(ROOT)
	$(BENCHMARK)/bin/python benchmarks/scaling.py
	$(BENCHMARK)/bin/python benchmarks/scoring.py
	if command -v nvidia-smi >/dev/null; then $(BENCHMARK)/bin/python benchmarks/gpu.py; fi

$(BENCHMARK)/ready: $(LOCK) benchmarks/requirements.txt
	$(PYTHON) -m venv $(BENCHMARK)
	echo '*' > $(BENCHMARK)/.gitignore
	$(BENCHMARK)/bin/python -m pip install -q --disable-pip-version-check -r $(LOCK)
	$(BENCHMARK)/bin/python -m pip install -q --disable-pip-version-check -c $(LOCK) -r benchmarks/requirements.txt
	touch $@

# What the shipped configs cost on TPUs and GPUs that are not there, by their compilers, in a venv of its own; hours on
# two cores. The table goes to benchmarks/results/compiled.md. The plug-in for CUDA is that of the lock file's jax,
# without NVIDIA's libraries, of which compiling needs none.
COMPILED := .venv-compiled
.PHONY: compiled
compiled: $(COMPILED)/ready
	$(COMPILED)/bin/python benchmarks/compiled.py

$(COMPILED)/ready: $(LOCK)
	$(PYTHON) -m venv --clear $(COMPILED)
	echo '*' > $(COMPILED)/.gitignore
	$(COMPILED)/bin/python -m pip install -q --disable-pip-version-check -r $(LOCK)
	JAX=$$($(COMPILED)/bin/python -c "import jax; print(jax.__version__)"); \
		$(COMPILED)/bin/python -m pip install -q --disable-pip-version-check "jax[tpu]==$$JAX" && \
		$(COMPILED)/bin/python -m pip install -q --disable-pip-version-check --no-deps \
		"jax-cuda13-plugin==$$JAX" "jax-cuda13-pjrt==$$JAX"
	touch $@
