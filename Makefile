# The one line to change for another Python: make book PYTHON=python3.13
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# Chapters and tests use what is embedded, so that they give the same everywhere.
export XAIUTILS_OFFLINE := 1
INSTALLED := $(VENV)/.installed
LINTED := xaiutils book/_tools tests notebooks $(wildcard benchmarks)

.PHONY: book pdf test notebooks change teach test-teach pack grade serve lint clean
.DEFAULT_GOAL := book

book: $(INSTALLED)  ## executes what is stale, then builds into _build/html
	$(PY) book/_tools/build.py

pdf: $(INSTALLED)  ## prints the whole book as one PDF: into _build/pdf
	$(PY) book/_tools/printed.py

# No line after pytest: its summary is the last thing to be read.
test: lint  ## lint, unit, notebook and browser tests
	$(PY) -m pytest -n 2 --dist loadscope --nbval-lax --nbval-current-env --nbval-cell-timeout 120 \
		--nbval-sanitize-with tests/sanitize.cfg tests notebooks

notebooks: $(INSTALLED)  ## executes every chapter in place
	$(PY) book/_tools/chapters.py --all

change: $(INSTALLED)  ## executes every chapter on another sample: which statements still hold?
	$(PY) book/_tools/change.py

teach: $(INSTALLED)  ## notebooks, sheets, questions, slides, figures: into _build/teach
	$(PY) book/_tools/teach.py

test-teach: $(INSTALLED)  ## executes both editions of every chapter: do the book's answers pass?
	$(PY) book/_tools/teach.py --run

# Such as PACK='--platform windows' or PACK='--torch FOLDER'; book/_tools/pack.py says more.
pack: $(INSTALLED)  ## all that a class needs to work without a network: into _build/pack
	$(PY) book/_tools/pack.py $(PACK)

grade: $(INSTALLED)  ## marks students' notebooks (make grade FOLDER=...): into _build/marks
	$(PY) book/_tools/grade.py "$(FOLDER)"

serve:  ## shows the built book on this machine only
	@test -f _build/html/index.html || { echo "There is no book yet: run 'make book' first." >&2; exit 1; }
	$(PYTHON) -m http.server --bind 127.0.0.1 --directory _build/html 8000

lint: $(INSTALLED)
	$(PY) -m ruff check $(LINTED)
	$(PY) -m ruff format --check $(LINTED)
	$(PY) -m mypy --strict -p xaiutils

clean:  ## everything but the environment; `rm -r .venv` for that
	rm -rf _build assets/vendor node_modules tests/eslint/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Made anew whenever what it is made from changes; otherwise this costs nothing.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed; '$(PYTHON)' is none. Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[book,test]'
	@touch $@
