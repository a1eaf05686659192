# Each target does its own set-up, in .venv: deploy/bootstrap.sh. ARGS go to the command, PYTHON names the interpreter:
#   make test ARGS="tests/unit -x" PYTHON=python3.12

bootstrap = @sh deploy/bootstrap.sh
bin = .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo up test lint bench docs chaos lock clean
# Their output is for people: one after the other.
.NOTPARALLEL:

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## A server, workers and a local model: real prompts answered, then answered from the cache
	$(bootstrap) demo
	@$(bin)/kagura-tasks demo $(ARGS)

up: ## A server, workers and Flower, until Ctrl-C
	$(bootstrap) run
	@$(bin)/kagura-tasks up $(ARGS)

# Most tests wait for other processes: three at a time take less than half as long. Whole files stay together,
# because their tests share workers; tests/conftest.py says in which order.
test: ## The tests, in random order, three at a time; ARGS="-n 0" one after the other
	$(bootstrap) dev
	@$(bin)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: ## Style, types, the direction of imports, the length of files, and what may run at start-up
	$(bootstrap) dev
	@$(bin)/python tools/check_environment.py
	@$(bin)/ruff check --quiet .
	@$(bin)/ruff format --check --quiet .
	@$(bin)/python tools/check_file_length.py
	@$(bin)/lint-imports --no-logo
	@$(bin)/basedpyright

bench: ## What it costs, beside plain Celery, bare Redis and other task queues in the same run
	$(bootstrap) dev bench
	@$(bin)/python -m benchmarks $(ARGS)

docs: ## The documentation, as a site in site/
	$(bootstrap) dev
	@NO_MKDOCS_2_WARNING=1 $(bin)/mkdocs build --strict --quiet $(ARGS)

chaos: ## The tests that kill workers and servers
	@test -d tests/chaos || { echo "make chaos: there are no tests in tests/chaos yet" >&2; exit 1; }
	$(bootstrap) dev
	@$(bin)/python -m pytest tests/chaos $(ARGS)

lock: ## Bring requirements.lock up to pyproject.toml; ARGS="--upgrade-package NAME" raises a version
	$(bootstrap)
	@$(bin)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --all-extras \
		--group build --group demo --group dev --group bench pyproject.toml --output-file requirements.lock $(ARGS)

clean: ## Remove .venv and everything else that is made here
	@rm -rf .venv .bootstrap.log site dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
