# Two commands do everything on a machine with only Python: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
JOBS ?= 2
READY := $(VENV)/.ready

.PHONY: demo test lint clean

$(READY): setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[report,dev]"
	touch $@

demo: $(READY)
	$(RUN) projects/demo/run.py --out output/demo

test: $(READY)
	$(RUN) -m pytest -n $(JOBS) --dist loadfile

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m mypy

clean:
	rm -rf $(VENV) output build dist *.egg-info
