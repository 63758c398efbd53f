# Everything needs only Python (>= 3.10) and make. VENV=path shares one environment between clones.
VENV ?= .venv
PYTHON ?= python3
PY := $(VENV)/bin/python
STAMP := $(VENV)/.lightning_cim-$(shell cksum < pyproject.toml | cut -d' ' -f1)
ECG_DATA ?= ../shared/data/iegm/iegm_strips.npz
CIFAR_DATA ?= ../shared/data/cifar10/cifar10_subset.npz
JOBS ?= 2
SIGMAS ?= [0.2]
# The peers need another torch, hence an environment of their own (Python 3.10 to 3.12).
PEERS_VENV ?= .venv-peers
PEERS_PYTHON ?= $(PYTHON)
PEERS_PY := $(PEERS_VENV)/bin/python
PEERS_PINS := benchmarks/peers_requirements.txt
PEERS_STAMP := $(PEERS_VENV)/.peers-$(shell cksum < $(PEERS_PINS) | cut -d' ' -f1)

.DEFAULT_GOAL := help
.PHONY: help setup demo compare compare-cifar iqa-ablation sweep-demo test lint types unit docs bench bench-peers minimum support figures ecg-real clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# The stamp is named after pyproject.toml's checksum: set-up runs again exactly when the dependencies changed. The
# project itself is found through PYTHONPATH, so clones that share one environment do not see each other's code.
export PYTHONPATH := $(CURDIR)
$(STAMP): pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	@echo "installing torch, lightning and the extras (about two minutes, 6 GB) ..."
	$(PY) -m pip install --quiet -e ".[all,dev]"
	$(PY) -m pip uninstall --quiet --yes lightning-cim
	rm -f $(VENV)/.lightning_cim-*
	touch $@

setup: $(STAMP) ## make the environment (skipped when it is up to date)

demo: setup ## train a network for noisy chips and write a report (about eight minutes)
	$(PY) recipes/ecg.py fit --out=runs/demo

ecg-real: setup ## the ECG recipe on real electrograms, patient-disjoint 5-fold (ECG_DATA=path)
	$(PY) recipes/ecg.py crossval --data.name=contest --data.root=$(ECG_DATA) --out=runs/ecg-real

compare: setup ## every training method on one network, MNIST 5k, 3 seeds (resumes; about 50 minutes on 2 cores)
	$(PY) recipes/vision.py compare --config=recipes/configs/vision.yaml --sigmas=$(SIGMAS) --jobs=$(JOBS) --out=runs/compare

compare-cifar: setup ## the same on a CIFAR-10 subset with a small ResNet (CIFAR_DATA=path)
	$(PY) recipes/vision.py compare --config=recipes/configs/vision-cifar.yaml --data.root=$(CIFAR_DATA) --jobs=$(JOBS) --out=runs/compare-cifar

iqa-ablation: setup ## training loss x map x inversion x network, T2 and FLAIR, tumours and MS, 3 seeds (resumes; some hours)
	$(PY) recipes/iqa.py ablation --processes=$(JOBS) --out=runs/iqa-ablation

sweep-demo: setup ## a sweep file run offline, with its table and picture (about three minutes)
	$(PY) -m lightning_cim.sweep recipes/sweeps/sgi.yaml --offline --out=runs/sweep-demo

bench: setup bench-peers ## the benchmarks that the README's performance table prints
	$(PY) benchmarks/injection.py
	$(PY) benchmarks/monte_carlo.py
	$(PY) benchmarks/neft.py
	$(PY) benchmarks/sensitivity.py
	$(PY) benchmarks/devices.py
	$(PY) benchmarks/write_verify.py
	$(PY) benchmarks/rasterizer.py
	$(PY) benchmarks/fusion_quality.py
	$(PY) benchmarks/cryo.py
	$(PY) benchmarks/codesign_cost.py
	$(PY) benchmarks/scale.py

# aihwkit-lightning asks for another torch than aihwkit's wheel was built for, hence --no-deps.
$(PEERS_STAMP): $(PEERS_PINS)
	test -x $(PEERS_PY) || $(PEERS_PYTHON) -m venv $(PEERS_VENV)
	@echo "installing the peers of the benchmark (7.5 GB) ..."
	$(PEERS_PY) -m pip install --quiet --only-binary=aihwkit -c $(PEERS_PINS) aihwkit torchvision lightning rich
	$(PEERS_PY) -m pip install --quiet --no-deps -c $(PEERS_PINS) aihwkit-lightning
	rm -f $(PEERS_VENV)/.peers-*
	touch $@

bench-peers: $(PEERS_STAMP) ## beside aihwkit, aihwkit-lightning and plain PyTorch, one table (7.5 GB environment of its own)
	OMP_NUM_THREADS=1 $(PEERS_PY) benchmarks/peers.py --wide --out=runs/peers

lint: setup ## ruff
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: setup ## mypy, strict
	$(PY) -m mypy

unit: setup ## the tests, on both cores
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadfile --cov --cov-report=term:skip-covered

minimum: setup ## the tests on the oldest versions that pyproject.toml allows (5 GB, Python 3.10 or 3.11)
	test -x $(VENV)/minimum/bin/python || $(PYTHON) -m venv $(VENV)/minimum
	$(VENV)/minimum/bin/python -m pip install --quiet -r tests/release/minimum.txt
	OMP_NUM_THREADS=1 $(VENV)/minimum/bin/python -m pytest -q -n $(JOBS) tests/callbacks tests/chip tests/variation \
		tests/evaluation tests/programming tests/contract tests/strategies tests/release tests/test_*.py

docs: setup ## the documentation in build/docs, warnings are errors
	$(PY) -m sphinx -q -W --keep-going -b html docs build/docs

support: setup ## write docs/support.md again, by running each of its cells
	$(PY) -m tests.support docs/support.md

figures: setup ## draw the figures of docs/methods again (about five minutes)
	set -e; for figure in docs/figures/[a-z]*.py; do $(PY) $$figure; done

test: lint types docs unit ## lint, types, docs and tests

clean: ## remove what the project wrote, keep the environment
	rm -rf runs build dist htmlcov .coverage .mypy_cache .ruff_cache
