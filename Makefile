# Two commands are enough: `make demo` turns the flywheel on real input, `make test` runs the tests.
SHELL := /bin/bash
.DEFAULT_GOAL := help
WORKSPACE ?= workspace
PY := .venv/bin/python

.PHONY: help install vllm llm-compressor demo up test test-all test-python bench lint format docs lock lock-docs lock-vllm lock-llm-compressor clean

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: ## Set up .venv from the lock (every other target does it by itself)
	@scripts/install

vllm: ## Set up vLLM in .venv-vllm from its own lock; KIND=gpu for NVIDIA GPUs
	@scripts/install-vllm $(or $(KIND),cpu)

llm-compressor: install ## Set up .venv-llm-compressor, which quantises language models
	@scripts/install-beside .venv-llm-compressor requirements/llm-compressor.txt

demo: install ## Turn the wheel on real input; ARGS="--exit" ends when done, ARGS="--engine vllm" serves with vLLM
	@$(if $(findstring llm,$(ARGS)),scripts/install-vllm cpu)
	@$(if $(findstring llm,$(subst vllm,,$(ARGS))),$(MAKE) --no-print-directory llm-compressor)
	@.venv/bin/flywheel demo --workspace $(WORKSPACE)-demo $(ARGS)

up: install ## Start every process of the workspace (WORKSPACE=folder) under one supervisor
	@.venv/bin/flywheel --workspace $(WORKSPACE) up $(ARGS)

# Three workers on two cores: they wait for processes that they started for much of the time. What
# starts vLLM is slow, too: `make test-all` and .ci/run run it.
test: install ## Run the tests but the slow ones; ARGS="tests/unit -k name" runs some
	@PYTHONDONTWRITEBYTECODE= $(PY) -m pytest -m "not slow" -n 3 --dist loadfile --no-loadscope-reorder \
		--durations 10 $(ARGS)

test-all: install ## Run every test, the slow ones too
	@$(PY) -m pytest $(ARGS)

test-python: install ## Run the unit tests on the other supported Pythons; ARGS=3.13 on one
	@scripts/test-python $(ARGS)

bench: install ## Measure: prints a table and writes JSON to build/bench
	@$(PY) -m tests.benchmarks $(ARGS)

lint: install ## Check format, style, types and the direction of imports
	@scripts/lint

format: install ## Rewrite the code in the project's format
	@.venv/bin/ruff format . && .venv/bin/ruff check --fix .

docs: install ## Build the documentation site into build/docs/site; a broken link fails
	@scripts/install-beside .venv-docs requirements/docs.txt
	@.venv-docs/bin/python docs/build_site.py

lock: install ## Resolve the lock anew from pyproject.toml
	@.tools/uv/bin/uv pip compile pyproject.toml --extra all --group dev --group assets --group demo \
		--universal --python-version 3.11 --override requirements/overrides.txt --generate-hashes \
		--no-emit-index-url --no-header --quiet --upgrade -o requirements/lock.txt

lock-docs: install ## Resolve the lock of the documentation site anew
	@.tools/uv/bin/uv pip compile --group docs --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --quiet --upgrade -o requirements/docs.txt

lock-llm-compressor: install ## Resolve llm-compressor's lock anew
	@.tools/uv/bin/uv pip compile requirements/llm-compressor.in --universal --python-version 3.11 \
		--override requirements/llm-compressor-overrides.txt --generate-hashes \
		--no-emit-index-url --no-header --quiet --upgrade -o requirements/llm-compressor.txt

lock-vllm: install ## Resolve vLLM's locks anew
	@for kind in cpu gpu; do \
		override=; [ $$kind = gpu ] || override="--override requirements/vllm-cpu-overrides.txt"; \
		.tools/uv/bin/uv pip compile requirements/vllm-$$kind.in --universal --python-version 3.11 $$override \
			--generate-hashes --no-emit-index-url --no-header --quiet --upgrade -o requirements/vllm-$$kind.txt; \
	done

clean: ## Remove the environment, caches and demo workspace of this checkout
	rm -rf .venv .venv-vllm .venv-llm-compressor .venv-docs .venv-3.* .tools build .pytest_cache .mypy_cache .ruff_cache .hypothesis $(WORKSPACE)-demo
