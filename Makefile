# make serve   installs what serving needs and serves the bundled model (HOST, PORT, MODEL)
# make test    installs everything and runs the tests
# make check   style, types and import rules
# make train-environment   .venv with what training and export need

HOST ?= 127.0.0.1
PORT ?= 8000
MODEL ?= service/bundled/segdepth.onnx
PYTHON ?= python3
# `make serve RUNTIME=gpu` installs ONNX Runtime for CUDA and asks for the GPU.
RUNTIME ?= cpu

PIP = .venv/bin/python -m pip --disable-pip-version-check
INSTALL = $(PIP) install --quiet --constraint constraints.txt --editable

.PHONY: serve test check train-environment clean
.DELETE_ON_ERROR:

serve: .venv/installed-$(RUNTIME)
	.venv/bin/segdepth serve --host $(HOST) --port $(PORT) --model $(MODEL) --device $(if $(filter gpu,$(RUNTIME)),cuda,cpu)

test: .venv/installed-dev
	.venv/bin/python -m pytest -n auto --dist loadfile

check: .venv/installed-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

train-environment: .venv/installed-dev

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed-cpu: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) '.[cpu]'
	touch $@

.venv/installed-gpu: .venv/bin/python pyproject.toml constraints.txt
	-$(PIP) uninstall --quiet --yes onnxruntime
	$(INSTALL) '.[gpu]'
	touch $@

.venv/installed-dev: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) '.[cpu,train,rooms,dev]'
	touch $@

clean:
	rm -rf .venv
