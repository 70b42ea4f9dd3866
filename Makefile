# Everything a newcomer needs, in one place. Each target sets up .venv first if it is not there.
# PYTHON=/path/to/python3.12 chooses the interpreter; it must be 3.11 or 3.12.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
REPORT := .pytest_cache/matrix.xml
# byte-code files make the difference between 30 and 90 seconds for a server's start
unexport PYTHONDONTWRITEBYTECODE
export PYTHONUNBUFFERED := 1
# threads that wait shall not spin through the time of those that work
export OMP_WAIT_POLICY := PASSIVE

.DEFAULT_GOAL := help
.PHONY: help venv demo test matrix contract lint format bench-cpu fuzz hostile soak site lock clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

venv: $(READY) ## set up .venv from the committed lock

$(READY): requirements/install.sh requirements/lock-py311.txt requirements/lock-py312.txt pyproject.toml
	@sh requirements/install.sh
	@touch $@

demo: $(READY) ## make a tiny checkpoint, serve it, talk to it: the main job in a minute
	@$(BIN)/sglang-nemotron demo

# tests that share servers on one core, everything else on the other, and on whichever is free
test: $(READY) ## run the tests, real servers included, without the full matrix and without a GPU
	$(BIN)/python -m pytest -m "not matrix and not gpu" -n 2 --dist loadscope --durations=15 --durations-min=1

matrix: $(READY) .router-venv/.ready ## run the full matrix of shapes, modes and prompts as well (about an hour), and write benchmarks/matrix.json
	$(BIN)/python -m pytest -m "not gpu" --junitxml=$(REPORT); status=$$?; \
	$(BIN)/python benchmarks/matrix.py $(REPORT) "make matrix" && exit $$status

contract: ## look at SGLang's newest release: does it have all that we take for granted? (10 GB in .contract)
	@sh .ci/contract

lint: $(READY) ## check style, formatting, types and the fences
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	sh .ci/fences

format: $(READY) ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-cpu: $(READY) ## time the toy on this CPU, and write benchmarks/cpu_toy.json
	$(BIN)/python benchmarks/cpu_toy.py

fuzz: $(READY) ## parse made-up replies for ten minutes (MINUTES=n)
	$(BIN)/python -m tests.reply.fuzz --minutes $(or $(MINUTES),10)

hostile: $(READY) ## read damaged media files, one for each of COUNT=10000 seeds from SEED=0 on
	$(BIN)/python -m tests.hostile.fuzz --seed $(or $(SEED),0) --count $(or $(COUNT),10000)

soak: $(READY) ## everything at once for half an hour, text and Omni (MINUTES=n, MODEL=text or omni, URL=http://...)
	$(BIN)/python -m tests.soak $(or $(MODEL),both) --minutes $(or $(MINUTES),30) $(if $(URL),--url $(URL))

site: .site-venv/.ready ## build the site into .site, strictly; seconds, in an environment of its own (.site-venv)
	@NO_MKDOCS_2_WARNING=1 .site-venv/bin/mkdocs build --strict --quiet
	@.site-venv/bin/python benchmarks/plots.py --check

.site-venv/.ready .router-venv/.ready: .%-venv/.ready: requirements/apart.sh requirements/%.txt
	@sh requirements/apart.sh $*
	@touch $@

lock: ## write the lock files anew with the newest releases that fit (needs uv)
	sh requirements/lock.sh

clean: ## remove .venv and everything that was made here
	rm -rf $(VENV) .site .site-venv .router-venv .demo .checkpoints .contract .release dist build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
