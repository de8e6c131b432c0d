# Recipes for working on runvoy. `just` alone lists them; without it installed: uvx --from rust-just just

set shell := ["bash", "-euo", "pipefail", "-c"]

# Some machines forbid bytecode, and then every process a test starts compiles its imports anew.
unexport PYTHONDONTWRITEBYTECODE

default:
    @just --list

# Install everything into .venv
setup:
    uv sync --compile-bytecode

# All that must hold before a change is handed in
check: lint types contracts docs-current servers long test

# Run the tests; arguments go to pytest
test *ARGS:
    uv run pytest {{ARGS}}

# The tests that answer while one works
quick *ARGS:
    uv run pytest -m "not slow and not servers and not browser and not long" -x -q {{ARGS}}

# The searches whose quick form alone a plain run has: the worlds of planted bugs without them, under every seed
long *ARGS:
    uv run pytest -m long {{ARGS}}

# The tests that a plain run leaves out: on MiniStack and SeaweedFS, and with the CDK; they take minutes
servers *ARGS:
    uv run --group infra pytest -m servers {{ARGS}}

# Find what is wrong in style and likely wrong in substance
lint:
    uv run ruff check .
    uv run ruff format --check .

# Format, and fix what can be fixed without judgement
format:
    uv run ruff check --fix .
    uv run ruff format .

# Check types
types:
    uv run mypy

# Check who may import whom
contracts:
    uv run lint-imports

# Regenerate the pages that are made from code
docs:
    uv run python docs/generate.py

# Fail if a generated page is not what the code says
docs-current:
    uv run python docs/generate.py --check

# Run the commands that the pages show, and write what they print where it is not what is shown; arguments are pages, or --check
transcripts *ARGS:
    uv run python docs/transcripts.py {{ARGS}}

# Write the golden bytes anew. Only on purpose: bytes that changed mean a new schema version
golden:
    uv run python -m tests.golden.generate

# Write the vectors (valid messages, and every tamper of them) anew. As `golden`: only on purpose
vectors:
    uv run python tests/golden/vectors.py

# Fuzz every decoder for so many minutes, all of them together; guided by coverage where atheris is (`uv sync --group fuzz`)
fuzz MINUTES *ARGS:
    uv run python -m tests.fuzz {{MINUTES}} {{ARGS}}

# Measure; arguments choose benchmarks
bench *ARGS:
    uv run python -m benchmarks {{ARGS}}

# kill -9 of stack, runners and clients among many more requests than the suite's quick form has
chaos REQUESTS="50":
    RUNVOY_TEST_CHAOS={{REQUESTS}} uv run pytest -n0 -s tests/e2e/test_anything_dies.py tests/e2e/test_stack_dies.py tests/e2e/test_rules.py -k "chaos or requests_over"

# Make so many small wrong changes, drawn under a seed, to core/ and protocol/, and see that tests notice: `just mutate 1 200`
mutate SEED N *ARGS:
    uv run python -m tests.mutation {{SEED}} {{N}} {{ARGS}}

# A whole AWS deployment on MiniStack: the real bundle and command line, members' work, and troubles (needs `uv sync --group infra`)
live *ARGS:
    uv run --group infra pytest -n0 -m servers tests/infra/live {{ARGS}}

# What CI runs, on this checkout
ci:
    bash .ci/run

# Simulate seeds of a whole deployment in a failing world: `just simulate --seeds 100 --requests 300`
simulate *ARGS:
    uv run python -m tests.simulation {{ARGS}}

# Explore and simulate everything at full size, and show that planted bugs are caught; takes minutes, prints one table
prove *ARGS:
    uv run python -m tests.simulation.prove {{ARGS}}

# Make what `runvoy infra apply` deploys: the template, and the functions' zip for arm64 or x86_64; no Docker needed
bundle *ARGS:
    uv run --group infra python -m runvoy_infra.bundling {{ARGS}}

# LocalStack (Docker) with a deployment's resources, and a worker on this machine for it: prints how its admin gets a key
localstack:
    docker compose up --detach --wait localstack
    {{just_executable()}} work-at http://127.0.0.1:4566

# The same worker at a LocalStack that runs elsewhere, host mode included; its log is .localstack/functions.log
work-at URL:
    mkdir -p .localstack
    AWS_ENDPOINT_URL={{URL}} AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test \
      uv run python -m runvoy_infra.localstack -- python -m runvoy_agent.wiring_host --home .localstack \
      --seed-admin-user admin >>.localstack/functions.log

# The viewer's tests in the system's Chromium (needs `uv sync --group browser`)
browser *ARGS:
    uv run --group browser pytest -n 3 -m browser {{ARGS}}

# Make the pictures of docs/images anew
screenshots:
    RUNVOY_TEST_SCREENSHOTS=1 uv run --group browser pytest -n0 -m browser tests/browser/test_screenshots.py

# kill -9 of `runvoy sync` so many times among requests and running commands; takes seconds for each
sync-chaos KILLS="100":
    RUNVOY_TEST_SYNC_KILLS={{KILLS}} uv run pytest -n0 -s tests/e2e/test_sync_dies.py
