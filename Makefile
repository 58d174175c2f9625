# make app       sets everything up and opens the dashboard
# make test      sets everything up, then style, types and all tests
# make lint      style and types only
# make bench     times kernels and networks beside other runtimes, about half an hour; QUICK=1 for a few minutes
# make sanitize  mutated files, odd inputs and the kernels' tests under GCC's sanitizers; some minutes
# make screenshots  takes the pictures of docs/views.md; needs Chromium
# make zoo       retrains the shipped checkpoints; goes on where it was stopped
#
# Variables: PYTHON (3.11 or newer), VENV, PORT, CHECKPOINTS (a folder of checkpoints to show instead of
# the shipped ones), IMAGES (a folder of images to ask about besides the test set), PYTEST_ARGS.

PYTHON      ?= python3
VENV        ?= .venv
PORT        ?= 8501
CHECKPOINTS ?=
IMAGES      ?=
PYTEST_ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: app test lint bench sanitize screenshots zoo
.DEFAULT_GOAL := app

app: $(VENV)/.ready
	$(if $(CHECKPOINTS),BCDNET_CHECKPOINTS='$(CHECKPOINTS)') $(if $(IMAGES),BCDNET_IMAGES='$(IMAGES)') $(VENV)/bin/streamlit run app/main.py --server.port $(PORT)

test: lint
	$(VENV)/bin/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.ready-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

CHROMIUM = $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)

bench: $(VENV)/.ready-bench $(VENV)/.ready-dev
	$(VENV)/bin/python -m benchmarks.layers $(if $(QUICK),--quick)
	$(VENV)/bin/python -m benchmarks.networks $(if $(QUICK),--quick)
	$(VENV)/bin/python -m benchmarks.training $(if $(QUICK),--quick)
	$(VENV)/bin/python -m benchmarks.agreement $(if $(QUICK),--images 500)
	$(if $(CHROMIUM),PYTHONPATH=tests $(VENV)/bin/python -m benchmarks.dashboard $(if $(QUICK),--quick),@echo "Chromium is not installed: the dashboard is not timed.")
	$(VENV)/bin/python -m benchmarks.report

sanitize: $(VENV)/.ready-dev
	$(VENV)/bin/cmake -S . -B $(VENV)/sanitize -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(VENV)/bin/ninja) \
	  -DPython_EXECUTABLE=$(abspath $(VENV)/bin/python) -DCMAKE_CXX_COMPILER=$(CXX) -DBCDNET_SANITIZE=ON
	$(VENV)/bin/cmake --build $(VENV)/sanitize
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so.6)" \
	  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
	  $(VENV)/bin/python tests/robustness/sanitized.py $(VENV)/sanitize \
	  tests/robustness/test_mutated_files.py tests/robustness/test_odd_inputs.py tests/kernels \
	  $(addprefix tests/test_engine.py::,test_every_layer_is_its_reference_bit_for_bit \
	    test_eight_callers_get_the_serial_results test_engines_come_and_go_while_others_work) $(PYTEST_ARGS)

screenshots: $(VENV)/.ready-dev
	PYTHONPATH=tests $(VENV)/bin/python -m browser.screenshots

zoo: $(VENV)/.ready-dev
	$(VENV)/bin/python -m bcdnet.training.zoo
	$(VENV)/bin/python -m analysis.results

# The stamps are renewed when a requirement or a kernel changes, and only then.
$(VENV)/.ready: requirements.txt pyproject.toml CMakeLists.txt $(wildcard bcdnet/kernels/csrc/*) | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --requirement requirements.txt
	$(VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable . || { \
	  echo "The XNOR kernels could not be compiled, see above; setting the project up without them." >&2; \
	  $(VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation --config-settings=cmake.define.BCDNET_KERNELS=OFF --editable .; }
	@$(VENV)/bin/python -c 'from bcdnet import kernels; print(kernels.describe())'
	@touch $@

$(VENV)/.ready-dev: requirements-dev.txt $(VENV)/.ready
	$(VENV)/bin/python -m pip install --quiet --requirement requirements-dev.txt
	@touch $@

$(VENV)/.ready-bench: requirements-bench.txt $(VENV)/.ready
	$(VENV)/bin/python -m pip install --quiet --requirement requirements-bench.txt
	@touch $@

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "$(PYTHON) was not found: install Python 3.11 or newer, or name one with 'make PYTHON=/path/to/python3.11'." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is $$($(PYTHON) -c 'import platform; print(platform.python_version())'), but 3.11 or newer is needed: name one with 'make PYTHON=/path/to/python3.11'." >&2; exit 1; }
	@echo "Setting up $(VENV); the first time takes a few minutes."
	@$(PYTHON) -m venv $(VENV) || { \
	  rm -f $(VENV)/bin/python*; echo "No virtual environment could be made: on Debian and Ubuntu, install the package python3-venv." >&2; exit 1; }
