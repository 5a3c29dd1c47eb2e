# Two commands: `make lab` and `make test`.  Both set up .venv first, and again at once when run twice.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export EQUILIB_BUDGET ?= laptop
# Cells with the tag nbval-check-output must give what is saved, in any budget; the others must run.
NBVAL := --nbval-lax --nbval-cell-timeout=600 --nbval-sanitize-with=tests/nbval.cfg

# What `make check` tests: modules that train nothing and open no browser.
FAST := fields filters grids house int8 layers pcam results study study_figures study_tables tissue variant

.PHONY: lab lint check test nightly mutation notebooks student site demo repository package bench clean
.DELETE_ON_ERROR:

# Notebooks train, too: the allocator's settings of equilib/cli/allocator.py, unless others are set.
lab: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184
# Containers often have no other user than root, whom Jupyter refuses unless told otherwise.
lab: $(STAMP)
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) \
		--LabApp.default_url=/lab/tree/01_feature_fields.ipynb $(LAB_OPTIONS) notebooks

# Style, of notebooks too; `.venv/bin/ruff format .` and `.venv/bin/ruff check --fix .` repair most of it.
lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# For the minute between two edits.
check: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "not slow" $(FAST:%=tests/test_%.py)

# Two processes with a thread each: on two cores that is faster than one with two, and than two that quarrel over them.
# One call for notebooks and tests, so that neither waits for the other's last file.  Each folder has a conftest.py, and
# what a test imports from it is the one that was read last: tests stand at the end.
test: lint
	@set -e; begin=$$(date +%s); \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not nightly" $(NBVAL) notebooks tests; \
	echo "notebooks and tests $$(($$(date +%s) - begin)) s"

# What takes minutes more, for the night: the notebooks that compute longest, opened in a browser.
nightly: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m nightly tests

# Do the tests bite?  Breaks the library in some three hundred places, one at a time; takes an hour, for the night.
mutation: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutation.py

# Run all notebooks from top to bottom and save them with their outputs.
notebooks: $(STAMP)
	$(BIN)/python -m equilib.notebooks run notebooks/*.ipynb

# Copies without solutions in student/, run to the end.
student: $(STAMP)
	$(BIN)/python -m equilib.notebooks student student notebooks/*.ipynb
	OMP_NUM_THREADS=1 EQUILIB_BUDGET=smoke $(BIN)/python -m pytest -n 2 --dist loadfile $(NBVAL) student

# The live page alone, in build/live, served on this machine; needs npm.
demo: $(STAMP)
	$(BIN)/python -m equilib.live build/live $(DEMO_OPTIONS)

# The course as static pages in site/: the live page, notebooks with their sliders, the API reference.
site: $(STAMP)
	$(BIN)/python -m equilib.site site notebooks/*.ipynb

# After a fork: make repository URL=https://github.com/someone/equilib
repository: $(STAMP)
	$(BIN)/python -m equilib.notebooks repository $(URL)

# The wheel and the sdist, in dist/, and what is in them.
package: $(STAMP)
	$(BIN)/python .ci/package.py dist

# Speed and memory, side by side, then every runtime; takes an hour and more, and wants a quiet machine.
# BENCH_OPTIONS=--short: few repeats, and only what a busy machine would spoil; ten minutes or so.
# RUNTIMES_OPTIONS="--data FOLDER --arm FOLDER": real patches, and Arm under emulation.
bench: $(STAMP)
	$(BIN)/python benchmarks/speed.py measure $(BENCH_OPTIONS)
	$(BIN)/python benchmarks/runtimes.py measure $(BENCH_OPTIONS) $(RUNTIMES_OPTIONS)

# torch goes first and by itself: with it in place no other package asks for another build of it.
# pip compiles on one core; compileall afterwards, on all.  It complains of files that are templates or of a later Python.
# Leaving it to the first import costs twice the time where PYTHONDONTWRITEBYTECODE is set, as in many containers.
# JupyterLab's announcements ask for consent in a pop-up and look for news: off.
$(STAMP): pyproject.toml constraints.txt
	@for python in $(PYTHON) $(wildcard $(BIN)/python); do \
		$$python -c "import sys; sys.exit(None if sys.version_info >= (3, 11) else '$$python is Python ' + sys.version.split()[0] + '; 3.11 or newer is needed: make clean, then make … PYTHON=python3.12')" || exit 1; done
	@mkdir -p $(VENV); date +%s > $(VENV)/.began
	@echo "sets up $(VENV), once: pip says nothing for a minute or several"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --no-compile --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --no-compile --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[lab,site,test]"
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	$(BIN)/jupyter labextension disable --level=sys_prefix "@jupyterlab/apputils-extension:announcements"
	touch $@
	@echo "set-up $$(($$(date +%s) - $$(cat $(VENV)/.began))) s"

clean:
	rm -rf $(VENV) build *.egg-info
