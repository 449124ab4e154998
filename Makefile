# make serve   installs what serving needs and serves the bundled model (make serve HOST=... PORT=... MODEL=...)
# make test    installs everything and runs the tests
# make check   style, types and import rules
# make train-environment   .venv with what training and export need

PYTHON ?= python3
# `make serve RUNTIME=gpu` installs ONNX Runtime for CUDA and asks for the GPU.
RUNTIME ?= cpu
# An option whose variable stands on make's command line; shells have a HOST of their own.
option = $(if $(filter command,$(origin $(1))),--$(2) $($(1)))

PIP = .venv/bin/python -m pip --disable-pip-version-check
INSTALL = $(PIP) install --quiet --constraint constraints.txt --editable
# What an installation depends on; it compiles service/kernels.c.
PROJECT = .venv/bin/python pyproject.toml constraints.txt hatch_build.py service/kernels.c

.PHONY: serve test check train-environment clean
.DELETE_ON_ERROR:

# Everything else is a setting, SEGDEPTH_*, of the environment.
serve: export SEGDEPTH_DEVICE ?= $(if $(filter gpu,$(RUNTIME)),cuda,cpu)
serve: .venv/installed-$(RUNTIME)
	.venv/bin/segdepth serve $(call option,HOST,host) $(call option,PORT,port) $(call option,MODEL,model)

test: .venv/installed-dev
	.venv/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder  # In the order of tests/conftest.py.

check: .venv/installed-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

train-environment: .venv/installed-dev

.venv/bin/python:
	$(PYTHON) -m venv .venv

# Both ONNX Runtimes have the same files: where one comes, the other goes, and what was installed with it.
.venv/installed-cpu: $(PROJECT)
	$(if $(wildcard .venv/installed-gpu),$(PIP) uninstall --quiet --yes onnxruntime-gpu && rm .venv/installed-gpu)
	$(INSTALL) '.[cpu]'
	touch $@

.venv/installed-gpu: $(PROJECT)
	-$(PIP) uninstall --quiet --yes onnxruntime
	rm -f .venv/installed-cpu .venv/installed-dev
	$(INSTALL) '.[gpu]'
	touch $@

.venv/installed-dev: $(PROJECT)
	$(if $(wildcard .venv/installed-gpu),$(PIP) uninstall --quiet --yes onnxruntime-gpu && rm .venv/installed-gpu)
	$(INSTALL) '.[cpu,train,rooms,dev]'
	touch $@

clean:
	rm -rf .venv
