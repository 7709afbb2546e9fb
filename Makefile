# make setup | demo | demo-flow | demo-rounds | control | demo-text | frontier | frontier-image | browser | test | gpu-check | check; every target makes the environment it needs.
VENV := .venv
PYTHON := $(VENV)/bin/python
export HF_HUB_OFFLINE := 1
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: setup demo demo-flow demo-rounds control demo-text frontier test check clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Trains on the bundled pairs, then compares policy and reference on captions that training did not see.
# This and the next four go on where they were stopped; delete their folder in runs/ to begin again.
demo: setup
	$(PYTHON) -m diffdpo demo --output_dir runs/demo

# The same for the bundled flow model, in Stable Diffusion 3's format.
demo-flow: setup
	$(PYTHON) -m diffdpo demo-flow --output_dir runs/demo-flow

# Two rounds of sampling, choosing and training, beside one long training and the best of four.
demo-rounds: setup
	$(PYTHON) -m diffdpo demo-rounds --output_dir runs/demo-rounds

# The demo with a coin toss for every label: what a win rate of it is worth.
control: setup
	$(PYTHON) scripts/train_diffusion_dpo.py --output_dir runs/control/train --random_labels \
		--resume_from_checkpoint latest
	$(PYTHON) scripts/evaluate.py --policy runs/control/train --output_dir runs/control

# The bundled language model and its rated reviews: continuations of prefixes that training did not see.
demo-text: setup
	$(PYTHON) -m diffdpo demo-text --output_dir runs/demo-text

# Reward against KL over several betas: assets/reward-kl.png.
frontier: setup
	$(PYTHON) scripts/reward_frontier.py

# The same of pictures, win rate against the winner's error: assets/reward-error.png.
.PHONY: frontier-image
frontier-image: setup
	$(PYTHON) scripts/reward_frontier.py --images

# The browser for the tests of the page on which people choose; without it they are left out.
.PHONY: browser
browser:
	@command -v chromium >/dev/null || { $(SUDO) apt-get update -qq \
		&& $(SUDO) apt-get install -y -qq --no-install-recommends chromium >/dev/null; }

test: setup
	$(PYTHON) -m pytest -n 2

# Which single-point changes of the core do the tests not notice? Restartable; the log is runs/mutants.jsonl.
.PHONY: mutants
mutants: setup
	$(PYTHON) scripts/mutants $(MUTANTS)

# The tests that need a CUDA device, and are skipped elsewhere.
.PHONY: gpu-check
gpu-check: setup
	$(PYTHON) -m pytest tests/gpu -m gpu -vv -rs

check: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) build *.egg-info
