# Everything runs from here. A first run needs the network (packages, models); later ones do not.
SHELL := /bin/bash
BIN := .venv/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup setup-opens2s setup-sip setup-test run run-sip test check bench soak clean-root clean

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## Make .venv with what the server needs
	@scripts/setup.sh

setup-opens2s: ## Add what the backend opens2s needs: torch (for the GPU, where there is one), transformers
	@scripts/setup.sh --opens2s

setup-sip: ## Add what telephone calls need: Kamailio, rtpengine, echo cancellation
	@scripts/setup.sh --sip

setup-test: ## Add what tests and checks need: dev tools, torch (CPU), Chromium
	@scripts/setup.sh --test

run: setup ## Set up, fetch the models, and serve (ARGS="--backend echo" adds flags)
	@$(BIN)/rtc-server models fetch
	@exec $(BIN)/rtc-server serve $(ARGS)

run-sip: setup-sip ## The same, and telephones can call (ARGS as for run)
	@$(BIN)/rtc-server models fetch
	@exec $(BIN)/rtc-server sip up $(ARGS)

test: setup-test ## Set up and run all tests (ARGS="tests/test_config.py -x" selects)
	@$(BIN)/rtc-server models fetch
	@$(BIN)/python -m scripts.deploy_tools
	$(BIN)/python -m pytest $(ARGS)

check: setup-test ## Formatting, lint, types, and that generated files and the lock are up to date
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m scripts.lock --check
	$(BIN)/python -m scripts.configuration --check
	$(BIN)/python -m scripts.compatibility --check
	$(BIN)/python -m scripts.dashboards --check

bench: setup-test ## Measure response latency through real calls (results in out/)
	@$(BIN)/rtc-server models fetch
	$(BIN)/python -m benchmarks.turn_latency $(ARGS)

soak: setup-test ## Calls come, talk, interrupt and vanish for 5 minutes (ARGS="--minutes 60"): does anything grow?
	@$(BIN)/rtc-server models fetch
	$(BIN)/python -m benchmarks.churn $(ARGS)

clean-root: setup-test ## Run the image's steps and entry point in an empty Debian, and call it (root, debootstrap, minutes)
	@scripts/clean_root.sh

clean: ## Remove caches and results; .venv, certificates and models stay
	rm -rf build dist out .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
