# SPDX-License-Identifier: Apache-2.0
# Each command makes .venv first, from requirements.lock, when it is not there yet: see .ci/setup.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

python := .venv/bin/python
roots := $(if $(ASR_ROOT),--asr-root "$(ASR_ROOT)") $(if $(SER_ROOT),--ser-root "$(SER_ROOT)")
# whole files side by side, one thread each; what a file's tests share is made once. In order of their names: those of
# few and long tests would else come last, and one process would wait for the other
side_by_side := OMP_NUM_THREADS=1 $(python) -P -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile \
	--no-loadscope-reorder
kernel_sources = $(shell find csrc tests/csrc -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' -o -name '*.h')

.PHONY: gpu-check help demo results results-hubert results-mixers results-gpu test test-all lint format setup clean

help:      ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*##/make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

demo: setup      ## the whole chain on synthesised speech, or on ASR_ROOT=... SER_ROOT=...; ends in runs/demo*/report.html
	@$(python) experiments/run.py demo $(roots)

results: setup      ## the table of RESULTS.md, on an4 and emodb; resumes where it was stopped
	@$(python) experiments/run.py an4_emodb $(roots) --markdown RESULTS.md

results-hubert: setup      ## the same rows and HuBERT's in two iterations, at most 2 hours; adds its table to RESULTS.md
	@$(python) experiments/run.py an4_emodb_hubert $(roots) --markdown RESULTS.md

results-mixers: setup      ## attention, deformable, none and SummaryMixing beside sa, llsa and full; at most 2 hours
	@$(python) experiments/run.py an4_emodb_mixers $(roots) --markdown RESULTS.md

results-gpu: setup      ## the same rows with far more updates, on a GPU; adds its table to RESULTS.md
	@$(python) experiments/run.py an4_emodb_gpu $(roots) --markdown RESULTS.md

test: setup      ## the fast tests
	@$(side_by_side) -m "not slow and not gpu"

test-all: setup      ## every test, the slow proofs too
	@$(side_by_side)

gpu-check:      ## on a machine with a GPU, nvcc and torch, without network: build, gpu tests, sanitizers, benchmarks
	@$(or $(PYTHON),python3) benchmarks/gpu_check.py

lint: setup      ## ruff, pyright on headrace/, codespell; clang-format when csrc/ has sources
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/pyright --pythonpath $(python)
	@.venv/bin/codespell $$(git ls-files)
	@$(if $(kernel_sources),.venv/bin/clang-format --dry-run --Werror $(kernel_sources))

format: setup      ## let ruff (and clang-format) lay out the sources
	@.venv/bin/ruff check --fix-only .
	@.venv/bin/ruff format .
	@$(if $(kernel_sources),.venv/bin/clang-format -i $(kernel_sources))

setup:      ## .venv as requirements.lock says
	@PYTHON="$(PYTHON)" .ci/setup

clean:      ## remove .venv, caches and build leftovers; runs/ stays
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .hypothesis headrace/_C.so headrace/native_build.json
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
