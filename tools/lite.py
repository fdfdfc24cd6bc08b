"""A site in which the γ tour and the explorers run with nothing installed: JupyterLite, in _docs/lite.

The reader's browser runs Python itself (Pyodide). All of it is served by the site: its runtime out of npm's
package `pyodide`, wheels of what the widgets need (pure Python), and a wheel of this package. Nothing
is asked of any other address while the site is read; building it asks npm and a Python package index.

usage: python tools/lite.py [--out FOLDER]        (default: _docs/lite; needs the extra `lite`, npm, Node.js)
       python tools/lite.py --open FOLDER         (open it in Chromium: seconds to the first moved slider)
"""

import argparse
import ast
import functools
import hashlib
import http.server
import json
import math
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOUR = ROOT / 'nbs' / 'walkthroughs' / '10_slide_gamma.ipynb'
PAGE_VERSION = 'application/vnd.ofa-learn.page+html'
NEEDED = ('plotly', 'ipywidgets', 'anywidget')  # what the widgets import, beside the standard library
OF_THE_KERNEL = ('micropip', 'ipython', 'comm', 'jedi')
NO_USE = ('widgetsnbextension', 'jupyterlab-widgets', 'pexpect', 'ptyprocess')  # front ends, and processes
ABSENT = (
    'torch',
    'torchvision',
    'timm',
    'numpy',
    'scipy',
    'sklearn',
    'PIL',
    'tqdm',
    'safetensors',
    'fastcore',
)


# ------------------------------------------------------------------ the notebooks


def code(source: str) -> dict:
    cell = dict(cell_type='code', execution_count=None, metadata={}, outputs=[], source=source.strip())
    return dict(cell, id=hashlib.sha256(source.encode()).hexdigest()[:8])


def text(source: str) -> dict:
    name = hashlib.sha256(source.encode()).hexdigest()[:8]
    return dict(cell_type='markdown', id=name, metadata={}, source=source.strip())


def notebook(cells: list[dict]) -> dict:
    kernel = dict(name='python', display_name='Python (Pyodide)', language='python')
    return dict(cells=cells, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)


def digits_in(state) -> list[dict]:
    "The images with a label and a teacher's answer that stand anywhere in a widget's stored state."
    if (
        isinstance(state, list)
        and state
        and isinstance(state[0], dict)
        and {'image', 'label'} <= set(state[0])
    ):
        return state
    inside = state.values() if isinstance(state, dict) else state if isinstance(state, list) else ()
    return next(filter(None, map(digits_in, inside)), [])


def stored_cards(
    cells: list[dict],  # of the tour, with its outputs
) -> list[dict]:  # image, label, logits each, as the widgets take them
    "The digits of the tour and what its teacher said of them, out of its first widget's stored page version."
    for cell in cells:
        for output in cell.get('outputs') or []:
            page = ''.join(output.get('data', {}).get(PAGE_VERSION, ''))
            for state in re.findall(r'<script type="application/json">(.*?)</script>', page, re.S):
                if digits := digits_in(json.loads(state)):
                    return [card(d) for d in digits]
    raise ValueError(f'{TOUR.name}: expected a stored page version with digits, got none: run `make prepare`')


def card(digit: dict) -> dict:
    "A digit with the teacher's logits, or with logits whose softmax is what it said."
    logits = digit.get('logits') or [round(math.log(max(p, 1e-12)), 5) for p in digit['probs']]
    return dict(image=digit['image'], label=digit['label'], logits=logits)


IMPORTS = '''
import json
from pathlib import Path
from statistics import fmean

from ofa_learn.exercises import check_guess
from ofa_learn.explorers import AccuracyCurves
from ofa_learn.recorded import recorded
from ofa_learn.widgets import GammaExplorer, LossAnatomy, anatomy_state, gamma_state, probs_of
'''
TEACHER = '''
cards = json.loads(Path('cards.json').read_text(encoding='utf-8'))
sure, wrong = cards[0], cards[-1]
doubtful = min(cards, key=lambda c: abs(probs_of(c)[c['label']] - 0.5))


def target_weight(p, gamma):
    "The true class's weight in the paper's form; in the lesson it is `ofa_learn.losses.target_weight`."
    return (1 + p) ** gamma
'''
DOUBTS = '''
print(
    'Eight digits stand in the widget, from the teacher’s surest answer to its worst mistake. '
    f'Number {cards.index(doubtful) + 1} it doubts most; its true class is {doubtful["label"]}.'
)
'''
HERE = '''
> You are reading this in your browser, with nothing installed: Python runs in the page. Run the cells
from top to bottom (menu Run, Run All Cells). The teacher was trained beforehand, because PyTorch
does not run here; everything else is the tour as it is in the project. What you write stays in this browser.
'''


def tour(
    cells: list[dict],  # of the walkthrough
) -> list[dict]:  # the same, to be run without PyTorch
    "The γ tour with its teacher recorded instead of trained; a `ValueError` where a cell would need PyTorch."
    out = []
    for cell in cells:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown':
            out.append(text(without_links_out(source)))
        elif 'from statistics import fmean' in source:
            out.append(code(IMPORTS))
        elif 'teacher_cards(' in source:
            out.append(code(TEACHER))
        elif 'run.test_accuracy' in source:
            out.append(code(DOUBTS))
        else:
            out.append(code(source))
    out.insert(1, text(HERE))
    for cell in out:
        if cell['cell_type'] == 'code' and (names := needs_torch(cell['source'])):
            raise ValueError(
                f'{TOUR.name}: a cell imports {", ".join(names)}, which does not run in a browser'
            )
    return out


def needs_torch(source: str) -> list[str]:
    "The modules that a cell imports and that a browser has not."
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module or '')
    heavy = {*ABSENT, 'ofa_learn.data', 'ofa_learn.losses', 'ofa_learn.training', 'ofa_learn.models'}
    return sorted(name for name in found if name in heavy or name.split('.')[0] in ABSENT)


def without_links_out(source: str) -> str:
    "Links to other notebooks as links to their pages in the docs, two folders above this site's pages."
    return re.sub(r'\]\((?:\.\./)?(?:(\w+)/)?(\w+)\.ipynb(#[^)]*)?\)', page_link, source)


def page_link(m: re.Match) -> str:
    return f'](../../{m[1] or "walkthroughs"}/{m[2]}.html{m[3] or ""})'


EXPLORERS = [
    '''
# Slide over recorded runs

> Nothing trains here: each explorer shows measured runs that come with the package. Run all cells (menu Run).
''',
    'from ofa_learn.explorers import AccuracyCurves, BranchExplorer, CKAExplorer\n'
    'from ofa_learn.teacher_lab import TeacherLab',
    '## What γ and T did to accuracy\n\nEight values of γ, two temperatures, both forms, four pairs.',
    'AccuracyCurves()',
    '## What an exit knows, and what it costs\n\nThe student’s stages, from the first to the last.',
    'BranchExplorer()',
    '## Which layers see alike\n\nCKA between two networks, before and after distillation.',
    'CKAExplorer()',
    '## What a teacher was worth\n\nLabels, teachers, methods and T.',
    'TeacherLab()',
]


def explorers() -> list[dict]:
    "A notebook with the explorers over recorded runs."
    return [text(s) if s.lstrip().startswith('#') else code(s) for s in EXPLORERS]


def contents(folder: Path) -> None:
    "What the reader finds: the tour, its teacher's answers, the explorers."
    cells = json.loads(TOUR.read_text(encoding='utf-8'))['cells']
    made = {'10_slide_gamma.ipynb': notebook(tour(cells)), 'explorers.ipynb': notebook(explorers())}
    folder.mkdir(parents=True, exist_ok=True)
    for name, nb in (made | {'cards.json': stored_cards(cells)}).items():
        (folder / name).write_text(json.dumps(nb, ensure_ascii=False, indent=1), encoding='utf-8')


# ------------------------------------------------------------------ runtime and wheels


def run(*command, **more) -> str:
    "A command's output; what it said where it fails."
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **more)
    if done.returncode:
        sys.exit(f'{" ".join(map(str, command))}\n{(done.stdout + done.stderr)[-3000:]}')
    return done.stdout


def runtime(folder: Path, version: str) -> dict:
    "Unpack Pyodide out of npm's package; returns its lock file."
    if not shutil.which('npm'):
        sys.exit(
            'npm: expected on the PATH, the Python runtime of the page comes out of its package `pyodide`'
        )
    with tempfile.TemporaryDirectory() as place:
        run('npm', 'pack', f'pyodide@{version}', '--silent', cwd=place)
        with tarfile.open(next(Path(place).glob('*.tgz'))) as packed:
            packed.extractall(place, filter='data')
        folder.mkdir(parents=True, exist_ok=True)
        for name in ('pyodide.mjs', 'pyodide.js', 'pyodide.asm.mjs', 'pyodide.asm.js', 'pyodide.asm.wasm',
                     'python_stdlib.zip', 'pyodide-lock.json'):  # fmt: skip
            if (path := Path(place) / 'package' / name).exists():
                shutil.copy(path, folder / name)
    return json.loads((folder / 'pyodide-lock.json').read_text(encoding='utf-8'))


def fetch_wheels(folder: Path, lock: dict) -> None:
    "Pure-Python wheels of all that is needed, in the runtime's own versions where it has any."
    with tempfile.TemporaryDirectory() as place:
        pins = Path(place) / 'pins.txt'
        known = [p for p in lock['packages'].values() if p['file_name'].endswith('none-any.whl')]
        pins.write_text('\n'.join(f'{p["name"]}=={p["version"]}' for p in known))
        python = '.'.join(lock['info']['python'].split('.')[:2])
        run(
            *(sys.executable, '-m', 'pip', 'download', '--quiet', '--dest', folder, '--constraint', pins),
            *('--only-binary=:all:', '--platform', 'any', '--implementation', 'py', '--abi', 'none'),
            *('--python-version', python, *NEEDED, *OF_THE_KERNEL),
        )
    shutil.rmtree(ROOT / 'build', ignore_errors=True)  # what a wheel was made of before would be in it again
    run(sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--wheel-dir', folder, ROOT)


def plain_name(name: str) -> str:
    "A package's name as indexes write it."
    return re.sub(r'[-_.]+', '-', name).lower()


def requirements(metadata: str) -> list[str]:
    "The names that a wheel always requires, whatever the platform; extras and conditions are left out."
    lines = Parser().parsestr(metadata).get_all('Requires-Dist') or []
    return [plain_name(re.match(r'[\w.-]+', line)[0]) for line in lines if ';' not in line]


def described(path: Path) -> dict:
    "A wheel as the runtime's lock file describes it."
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        metadata = wheel.read(next(n for n in names if n.endswith('.dist-info/METADATA'))).decode('utf-8')
    tops = {n.split('/')[0] for n in names if n.endswith('.py') and '.data/' not in n}
    head = Parser().parsestr(metadata)
    return dict(
        name=plain_name(head['Name']),
        version=head['Version'],
        file_name=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        install_dir='site',
        package_type='package',
        unvendored_tests=False,
        imports=sorted(t.removesuffix('.py') for t in tops),
        depends=requirements(metadata),
    )


def locked(
    lock: dict,  # the runtime's own
    wheels: list[dict],  # of `described`
) -> dict:
    "A lock file that knows the wheels that the site serves, and no others."
    served = {w['name']: w for w in wheels}
    packages = {}
    for name, wheel in served.items():
        depends = NEEDED if name == 'ofa-learn' else wheel['depends']
        packages[name] = dict(wheel, depends=sorted(d for d in depends if d in served))
    return dict(lock, packages=packages)


# ------------------------------------------------------------------ the site

KERNEL = '@jupyterlite/pyodide-kernel-extension:kernel'


def settings() -> dict:
    "The site's configuration: packages that are loaded with the kernel, and no other place to ask."
    kernel = {'disablePyPIFallback': True, 'loadPyodideOptions': {'packages': ['ofa-learn', 'comm']}}
    data = {'appName': 'ofa-learn in the browser', 'litePluginSettings': {KERNEL: kernel}}
    return {'jupyter-lite-schema-version': 0, 'jupyter-config-data': data}


def megabytes(folder: Path) -> str:
    return f'{sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6:.0f}'


def start_page(folder: Path, files: list[str]) -> None:
    "The page where a reader begins; it says in one sentence what is missing."
    page = (ROOT / 'tools' / 'lite_start.html').read_text(encoding='utf-8')
    page = page.replace('SIZE', megabytes(folder / 'static' / 'pyodide')).replace(
        'NEEDED_FILES', json.dumps(files)
    )
    (folder / 'start.html').write_text(page, encoding='utf-8')


FRONT_ENDS = {'@jupyter-widgets/jupyterlab-manager', 'anywidget', '@jupyterlite/pyodide-kernel-extension'}


def check_front_ends(out: Path) -> None:
    "Without its front end a widget is a line of text, so a site that lacks one is not finished."
    found = json.loads((out / 'jupyter-lite.json').read_text(encoding='utf-8'))
    extensions = {e['name'] for e in found['jupyter-config-data'].get('federated_extensions', [])}
    if missing := sorted(FRONT_ENDS - extensions):
        sys.exit(f'{", ".join(missing)}: no front end in {out}, install jupyterlab_widgets and anywidget')


def build(out: Path) -> None:
    "The site, in a folder that is made again."
    try:
        from jupyterlite_pyodide_kernel.constants import PYODIDE_VERSION
    except ImportError:
        sys.exit("jupyterlite-pyodide-kernel: expected to be installed, `pip install -e '.[lite]'` does it")
    with tempfile.TemporaryDirectory() as place:
        lite = Path(place)
        served = lite / 'static' / 'pyodide'
        lock = runtime(served, PYODIDE_VERSION)
        fetch_wheels(served, lock)
        for name in NO_USE:
            for path in served.glob(f'{name.replace("-", "_")}-*.whl'):
                path.unlink()
        wheels = [described(p) for p in sorted(served.glob('*.whl'))]
        (served / 'pyodide-lock.json').write_text(json.dumps(locked(lock, wheels)), encoding='utf-8')
        contents(lite / 'files')
        (lite / 'jupyter-lite.json').write_text(json.dumps(settings()), encoding='utf-8')
        shutil.rmtree(out, ignore_errors=True)
        run(
            *(sys.executable, '-m', 'jupyter', 'lite', 'build', '--lite-dir', lite, '--output-dir', out),
            *('--contents', lite / 'files', '--no-sourcemaps', '--apps', 'notebooks', '--apps', 'lab'),
            cwd=lite,
        )
    check_front_ends(out)
    own = next(w['file_name'] for w in wheels if w['name'] == 'ofa-learn')
    needed = ['pyodide.mjs', 'pyodide.asm.wasm', 'python_stdlib.zip', own]
    start_page(out, [f'static/pyodide/{name}' for name in needed])
    print(f'{len(wheels)} wheels, {megabytes(out)} MB in {out}')


# ------------------------------------------------------------------ opened in a browser


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def opened(folder: Path, picture: Path | None = None) -> dict:  # seconds, requests to elsewhere
    "Open the tour in Chromium, run it, move γ by the keyboard, and say after how many seconds it had moved."
    from pictures import browser_page

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address, abroad = f'http://127.0.0.1:{server.server_port}/', []
    with browser_page() as page:
        page.set_default_timeout(300_000)
        page.on(
            'request',
            lambda r: abroad.append(r.url) if not r.url.startswith((address, 'data:', 'blob:')) else None,
        )
        begun = time.perf_counter()
        page.goto(f'{address}start.html')
        page.get_by_text('The tour: slide γ').click()
        page.locator('.jp-Notebook-ExecutionIndicator[data-status=idle]').wait_for()
        page.get_by_role('menuitem', name='Run').click()
        page.get_by_text('Run All Cells', exact=True).click()
        slider = page.locator('.jp-OutputArea input[type=range]').first
        slider.wait_for()
        shown = time.perf_counter() - begun
        title = page.locator('.jp-OutputArea .gtitle').first
        title.wait_for()
        before = title.text_content()
        slider.focus()
        page.keyboard.press('ArrowRight')
        page.wait_for_function(
            '([node, old]) => node.textContent !== old', arg=[title.element_handle(), before]
        )
        moved = time.perf_counter() - begun
        if picture:
            page.screenshot(path=picture)
    server.shutdown()
    return dict(shown=round(shown, 1), moved=round(moved, 1), abroad=abroad)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--out', type=Path, default=ROOT / '_docs' / 'lite')
    parser.add_argument('--open', type=Path, metavar='FOLDER')
    parser.add_argument('--picture', type=Path)
    options = parser.parse_args()
    if options.open:
        print(opened(options.open, options.picture))
    else:
        build(options.out)


if __name__ == '__main__':
    main()
