# make setup | demo | control | demo-text | frontier | test | check; every target makes the environment it needs.
VENV := .venv
PYTHON := $(VENV)/bin/python
LAUNCH := $(VENV)/bin/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
	--num_cpu_threads_per_process $(shell nproc)
export HF_HUB_OFFLINE := 1

.PHONY: setup demo control demo-text frontier test check clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Trains on the bundled pairs, then compares policy and reference on captions that training did not see.
demo: setup
	rm -rf runs/demo
	$(PYTHON) -m diffdpo demo --output_dir runs/demo

# The same with a coin toss for every label: what the win rate is worth.
control: setup
	rm -rf runs/control
	$(LAUNCH) scripts/train_diffusion_dpo.py --output_dir runs/control/train --random_labels
	$(PYTHON) scripts/evaluate.py --policy runs/control/train --output_dir runs/control

# The bundled language model and its rated reviews: continuations of prefixes that training did not see.
demo-text: setup
	rm -rf runs/demo-text
	$(PYTHON) -m diffdpo demo-text --output_dir runs/demo-text

# Reward against KL over several betas: assets/reward-kl.png.
frontier: setup
	$(PYTHON) scripts/reward_frontier.py

test: setup
	$(PYTHON) -m pytest -n 2

# Which single-point changes of the core do the tests not notice? Restartable; the log is runs/mutants.jsonl.
.PHONY: mutants
mutants: setup
	$(PYTHON) scripts/mutants $(MUTANTS)

check: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) build *.egg-info
