# Each target does its own set-up: .venv is built when it is missing or settings.ini has changed.
PYTHON ?= python3
BIN := .venv/bin
NB ?=

.PHONY: demo lab test quick docs lite readme prepare clean
demo: .venv/ready  ## the main job: a ViT teaches a CNN to read real digits
	$(BIN)/ofa-learn demo --out demo.html
lab: .venv/ready  ## open JupyterLab at the guided tours, with Slide γ open; the lessons are in the folder above
	$(BIN)/jupyter lab --notebook-dir=nbs --LabApp.default_url=/lab/tree/walkthroughs/10_slide_gamma.ipynb
test: .venv/ready  ## every notebook, every test; ends with "N passed, N failed"
	@$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder
quick: .venv/ready  ## the tests without browsers, trainings and notebooks, for a first look
	@$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder -m "not slow and not browser and not processes"
docs: .venv/ready  ## the docs site, in _docs: by Quarto where it is installed, otherwise a preview
	$(BIN)/python tools/docs.py
lite: .venv/ready  ## after docs: the tour and the explorers as notebooks that run in a browser, in _docs/lite (npm, 57 MB)
	$(BIN)/python -m pip install --quiet -e '.[lite]'
	$(BIN)/python tools/lite.py
readme: .venv/ready  ## README.md from nbs/index.ipynb
	$(BIN)/python tools/readme.py
prepare: .venv/ready  ## run every lesson, or NB="nbs/course/40_losses.ipynb …": outputs, pictures, modules, README
	$(BIN)/python tools/prepare.py $(NB)
clean:
	rm -rf .venv build dist *.egg-info

.venv/ready: settings.ini setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@
