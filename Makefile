# Two commands: `make demo` and `make test`. Each sets up what it needs in .venv first.
PYTHON ?= python3.11
VENV := .venv

.PHONY: demo test setup clean

demo: setup
	$(VENV)/bin/textray demo

test: setup
	PYTHONUTF8=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) demo runs mlflow.db mlartifacts
