# Two commands for a newcomer: make demo, make test. Both create .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: demo test slow check benchmarks clean

demo: .venv/ready
	$(BIN)/assay demo

test: .venv/ready-dev
	scripts/test

slow: .venv/ready-dev
	scripts/test slow

check: .venv/ready-dev
	scripts/check

benchmarks: .venv/ready-dev
	$(BIN)/python -m benchmarks

# torch comes first and pinned: any other form of the requirement may select a CUDA build.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("assay needs Python 3.11 or newer; run: make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install -c constraints.txt torch==2.13.0
	$(PIP) install -c constraints.txt -e '.[all]'
	touch $@

.venv/ready-dev: .venv/ready
	$(PIP) install -c constraints.txt -e '.[all,dev,peer]'
	touch $@

clean:
	rm -rf .venv .assay demo build dist
