# make demo    run the whole path on the Titanic: features, train, score
# make demo-ranking   rank films for the users of a small synthetic table: features, train, recommend
# make check   lint, types and unit tests (2 minutes)
# make test    lint, types and all tests (20 minutes)
# make fuzz    random tables, and readers during publication, for longer than in make test (10 minutes)
# make wheel-test   run the demo, install the wheel without TensorFlow elsewhere, and score the table with it again
# make docs    build the documentation site in build/site; a broken link is an error
# make reference    write conf/reference.yaml, the tables of docs/configuration.md and the help texts of docs/cli.md
#
# make bench-titanic   quality of the recipes over five splits (minutes)
# make bench-features  speed of the feature job, compared with a copy of the table and with Spark ML (12 minutes)
# make bench-train     speed of the training, compared with Keras's optimizers and DeepCTR (15 minutes)
# make bench-score     speed and memory of the score job, compared with a hand-written script and Spark's parts (20 minutes)
# make bench-paper     the paper's recipe, compared with the paper's claims (20 minutes)
# make bench-init      configurations of nfm init, trained unedited on 17 tables (25 minutes)
# make bench-quality   quality of the defaults on five tables, compared with LightGBM; ARGS="--tables adult --seeds 3" (10 minutes)
# make bench-flights   quality of the recipe on New York's flights, compared with LightGBM (15 minutes)
# make bench-ranking   quality of lists on MovieLens-100K, compared with ten baselines; pace of lists, sampler and steps (60 minutes)
#
# Each target first installs what it needs and the machine lacks: uv, the packages of uv.lock in .venv, and Java 17.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.PHONY: demo demo-ranking check test tests fuzz lint types wheel-test docs reference bench-titanic bench-features bench-train bench-paper \
	bench-flights bench-init bench-quality bench-ranking bench-score java clean

UV_VERSION := 0.13.9
UV := $(shell command -v uv || echo build/uv/bin/uv)
CONFIG ?= conf/titanic.yaml

# The first Java of version 17 or newer: that of JAVA_HOME, that of the PATH, or one in the folders that Debian uses.
FIND_JAVA = home=; \
	for java in "$${JAVA_HOME:-}/bin/java" "$$(command -v java || true)" /usr/lib/jvm/java-{17,21}-openjdk-*/bin/java; do \
		if [ -x "$$java" ] && [ "$$("$$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p')" -ge 17 ]; then \
			home=$$(dirname "$$(dirname "$$(readlink -f "$$java")")"); break; \
		fi; \
	done
RUN = $(FIND_JAVA); export JAVA_HOME="$$home" PATH="$(CURDIR)/.venv/bin:$$PATH" SPARK_CONF_DIR="$(CURDIR)/nfm/table/spark_conf" \
	PYSPARK_PYTHON="$(CURDIR)/.venv/bin/python";

QUIET = $$([ -t 2 ] || echo --quiet)
PYTEST = pytest -n 2 --dist loadfile --no-loadscope-reorder

demo: .venv/made java
	@$(RUN) spark-submit jobs/features.py --config $(CONFIG)
	@$(RUN) python jobs/train.py --config $(CONFIG)
	@$(RUN) spark-submit jobs/score.py --config $(CONFIG)

demo-ranking: .venv/made java
	@$(RUN) PYTHONPATH="$(CURDIR)" python examples/interactions.py build/viewers/tables
	@$(RUN) spark-submit jobs/features.py --config conf/viewers.yaml
	@$(RUN) python jobs/train.py --config conf/viewers.yaml
	@$(RUN) spark-submit jobs/recommend.py --config conf/viewers.yaml

check: lint types
	@$(RUN) $(PYTEST) -m unit

test: lint types tests

tests: .venv/made-dev java
	@$(RUN) $(PYTEST)

fuzz: .venv/made-dev java
	@$(RUN) FUZZ=full pytest -n 0 tests/fuzz

lint: .venv/made-dev
	@$(RUN) ruff check . && ruff format --check . && python tests/test_wording.py

types: .venv/made-dev
	@$(RUN) mypy

wheel-test: demo
	@$(RUN) UV="$(UV)" tests/wheel.sh build/titanic/model

docs: $(UV)
	@NO_MKDOCS_2_WARNING=1 UV_PROJECT_ENVIRONMENT=build/docs $(UV) run $(QUIET) --frozen --only-group docs \
		mkdocs build --strict

reference: .venv/made-dev
	@$(RUN) export PYTHONPATH="$(CURDIR)"; python -c "from nfm.config.reference import write_files; write_files()"; python tests/test_documents.py

bench-titanic: .venv/made-dev java
	@$(RUN) python tests/bench/titanic.py

bench-features: .venv/made-dev java
	@$(RUN) PYTHONPATH="$(CURDIR)" python tests/bench/features.py

bench-train: .venv/made-dev java
	@$(RUN) export PYTHONPATH="$(CURDIR)"; python tests/bench/steps.py; python tests/bench/pipeline.py; \
		python tests/bench/pace.py; TF_USE_LEGACY_KERAS=1 $(UV) run -q \
		--no-project --python .venv/bin/python --with deepctr==0.9.4 --with tf_keras --with 'tensorflow==2.21.*' \
		python tests/bench/train_deepctr.py --rows 80000

bench-score: .venv/made-dev java
	@$(RUN) PYTHONPATH="$(CURDIR)" python tests/bench/score.py

bench-paper: .venv/made-dev java
	@$(RUN) python tests/bench/paper.py

bench-init: .venv/made-dev java
	@$(RUN) PYTHONPATH="$(CURDIR)" python tests/bench/init_tables.py

bench-flights: .venv/made-dev java
	@$(RUN) PYTHONPATH="$(CURDIR)" python tests/bench/flights.py

bench-ranking: .venv/made-dev java
	@$(RUN) export PYTHONPATH="$(CURDIR)"; python tests/bench/ranking.py; python tests/bench/rank_lists.py; \
		python tests/bench/rank_sampler.py; python tests/bench/rank_steps.py

bench-quality: .venv/made-dev java
	@$(RUN) PYTHONPATH="$(CURDIR)" python tests/bench/quality.py $(ARGS)

# What the demo needs. --inexact keeps the tools of tests and benchmarks where they are installed.
.venv/made: pyproject.toml uv.lock | $(UV)
	@echo "Installing the packages of uv.lock in .venv (2.6 GB) …"
	@$(UV) sync --frozen --no-dev --extra spark --extra train --inexact $(QUIET)
	@touch $@

# What tests and benchmarks need.
.venv/made-dev: pyproject.toml uv.lock | $(UV)
	@echo "Installing the packages of uv.lock, tools for tests and benchmarks included, in .venv (3.3 GB) …"
	@$(UV) sync --frozen --all-extras $(QUIET)
	@touch .venv/made $@

build/uv/bin/uv:
	@if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then \
		package="python3-venv"; $(INSTALL); \
	fi
	@python3 -m venv build/uv
	@build/uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

java:
	@$(FIND_JAVA); if [ -z "$$home" ]; then package="openjdk-17-jre-headless"; $(INSTALL); fi

# Install a Debian package where this user may, else say in one line what to install.
INSTALL = if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing Debian's $$package …"; \
		export DEBIAN_FRONTEND=noninteractive; \
		{ apt-get update -qq && apt-get install -y -qq "$$package"; } >/dev/null; \
	else \
		echo "Please install $$package (that is its name in Debian; Spark takes Java 17 or 21), then run this again." >&2; \
		exit 1; \
	fi

clean:
	rm -rf build .venv
