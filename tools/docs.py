"""The docs site: pages made from the notebooks, in _proc, then HTML in _docs.

Quarto renders them where it is on the PATH, and otherwise Sphinx (a preview).

usage: python tools/docs.py [--preview]      (--preview: Sphinx even where Quarto is)
"""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from docsite import KEPT, directives, fenced, front_matter, homes, navigation, reference, without_tex

ROOT = Path(__file__).resolve().parent.parent
PROC, DOCS, NBS = ROOT / '_proc', ROOT / '_docs', ROOT / 'nbs'
STATIC = ROOT / 'ofa_learn' / 'static'
LEADS = {
    'Course': (
        'Lessons in reading order, then a lesson per method: each defines, explains and tests one module.'
    ),
    'Walkthroughs': 'Guided tours to run in JupyterLab: predict, try, check.',
    'Package': (
        'What carries the course: checkpoints, sweeps, figures, commands. Reference notebooks, not lessons.'
    ),
    'Paper and more': 'The papers mapped to the package, words and symbols, traps, results.',
    'Reference': 'Every public function and class, by module, and the way to the lesson that explains it.',
}
SCRIPTS = ('reach.js', 'narrow.js')  # on every page
LOOK = dict(
    html_title='ofa-learn',
    html_context=dict(default_mode='auto'),
    html_use_index=False,
    html_favicon=str(NBS / 'favicon.svg'),
    html_theme='pydata_sphinx_theme',
    html_css_files=['styles.css'],
    html_js_files=[(name, dict(defer='defer')) for name in SCRIPTS],
    html_show_sourcelink=False,
    html_copy_source=False,
    html_show_sphinx=False,
    language='en',
    project='ofa-learn',
    author='ofa-learn contributors',
    copyright='2026, ofa-learn contributors',
    html_theme_options=dict(
        navbar_align='left',
        show_prev_next=True,
        secondary_sidebar_items=['page-toc'],
        header_links_before_dropdown=6,
        footer_start=['copyright'],
        footer_end=[],
        use_edit_page_button=False,
        show_toc_level=1,
        search_bar_text='Search',
        pygments_light_style='a11y-high-contrast-light',
        pygments_dark_style='a11y-high-contrast-dark',
    ),
)


# ------------------------------------------------------------------ pages: the same for both renderers


def cells(name: str) -> list[dict]:
    return json.loads((NBS / name).read_text(encoding='utf-8'))['cells']


def facts(name: str) -> dict:
    "A notebook's title and description."
    first = next(c for c in cells(name) if c['cell_type'] == 'markdown')
    return front_matter(first['source'])[0]


def up(page: str, target: str) -> str:
    return '../' * page.count('/') + target


def number(name: str) -> str:
    "A lesson's number, before its title in lists."
    m = re.match(r'\w+/(\d\d)_', name)
    return m[1] + ' ' if m and not name.startswith('walkthroughs/') else ''


def titled(name: str) -> str:
    return number(name) + facts(name)['title']


def listing(part: dict) -> str:
    "The page where a part of the site begins: what is in it, with a line on each."

    def line(name):
        about = facts(name)
        link = f'[{about["title"]}]({up(part["page"], name)})'
        return f'- **{number(name)}{link}** {about["description"]}'

    out = [fenced(dict(title=part['title'], description=LEADS[part['title']]))]
    for title, names in part['sections']:
        if title:
            out.append(f'## {title}')
        out.append('\n'.join(map(line, names)))
    return '\n\n'.join(out) + '\n'


def modules() -> dict[str, str]:
    "{page of the reference: its text}, in the lessons' order."
    out = {}
    for path in sorted(NBS.glob('*/[0-9]*.ipynb'), key=lambda p: p.name):
        name = path.relative_to(NBS).as_posix()
        text = reference(cells(name), name, homes(NBS))
        if text:
            module = re.search(r'title: "ofa_learn\.(\w+)"', text)[1]
            out[f'{module}.qmd'] = text
    return out


def contents(listed: dict[str, str]) -> str:
    "The page where the reference begins, from its pages."
    out = [fenced(dict(title='Reference', description=LEADS['Reference'])), '']
    for name, text in listed.items():
        title = re.search(r'title: .(.*?).$', text, re.M)[1]
        description = json.loads(re.search(r'description: (.*)$', text, re.M)[1])
        out.append(f'- [`{title}`]({name}): {description}')
    return '\n'.join(out) + '\n'


def document(name: str, title: str, lead: str) -> str:
    "A markdown file of the top level as a page."
    text = re.sub(r'\A#\s+.*\n+', '', (ROOT / name).read_text(encoding='utf-8'))
    return fenced(dict(title=title, description=lead)) + '\n\n' + text.replace('](nbs/', '](')


def script() -> str:
    "What moves the figures of pages, as one file."
    files = [STATIC / name for name in ('shared.js', 'figure.js', 'views.js', 'pages.js')]
    own = '\n'.join(f.read_text(encoding='utf-8') for f in files if f.exists())
    return f'(function () {{\n{own}\n}})();\n'


def process() -> list[str]:
    "Let nbdev make a page of every notebook; returns their names."
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs

    os.chdir(ROOT)
    refresh_quarto_yml()
    shutil.rmtree(PROC, ignore_errors=True)
    proc_nbs(n_workers=0)
    paths = [p.relative_to(NBS) for p in NBS.rglob('*.ipynb')]
    names = [p.as_posix() for p in paths if not any(s[0] in '._' for s in p.parts)]
    if missing := [n for n in names if not (PROC / n).exists()]:
        sys.exit(f'no page came of {missing}')
    return names


def stage() -> list[dict]:
    "Write all that is rendered to _proc; returns the site's parts."
    from plotly.offline import get_plotlyjs

    parts, listed = navigation(process()), modules()
    for name, text in listed.items():
        write(f'reference/{name}', text)
    for part in parts[:-1]:
        write(part['page'], listing(part))
    parts[-1]['sections'] = [('', [f'reference/{n}' for n in listed])]
    write('reference/index.qmd', contents(listed))
    write('changelog.qmd', document('CHANGELOG.md', 'Changelog', 'What changed, version by version.'))
    more = []
    if (ROOT / 'CONTRIBUTING.md').exists():
        lead = 'How to change a lesson, add a method, record runs.'
        write('contributing.qmd', document('CONTRIBUTING.md', 'Contributing', lead))
        more = ['contributing.qmd']
    parts.append(dict(title='Changelog', page='changelog.qmd', sections=[('', more)]))
    scripts = [(NBS / name).read_text(encoding='utf-8') for name in SCRIPTS]
    in_page = [dict(text=f'<script>\n{text}</script>') for text in scripts]
    made = {'website': menus(parts), 'format': {'html': {'include-after-body': in_page}}}
    write('sidebar.yml', json.dumps(made, ensure_ascii=False, indent=1))
    shutil.copytree(NBS / 'images', PROC / 'images', dirs_exist_ok=True)
    write('assets/plotly.min.js', get_plotlyjs())
    write('assets/pages.js', script())
    return parts


def write(name: str, text: str) -> None:
    (PROC / name).parent.mkdir(parents=True, exist_ok=True)
    (PROC / name).write_text(text, encoding='utf-8')


SIDE = {'style': 'docked', 'collapse-level': 1}


def menus(parts: list[dict]) -> dict:
    "The bar and the sidebar as Quarto wants them (JSON is YAML)."

    def link(name):
        return dict(href=name, text=titled(name)) if name.endswith('.ipynb') else name

    def inside(part):
        out = []
        for title, names in part['sections']:
            links = [link(n) for n in names]
            out += [dict(section=title, contents=links)] if title else links
        return out

    def side(part):
        "A sidebar of its own: one for all would mark the first part as current on every page."
        name = part['page'].partition('.')[0].replace('/', '-')
        first = dict(href=part['page'], text=part['title'])
        return dict(id=name, title=part['title'], **SIDE, contents=[first, *inside(part)])

    return dict(
        navbar=dict(left=[dict(href=p['page'], text=p['title']) for p in parts]),
        sidebar=[side(p) for p in parts],
    )


# ------------------------------------------------------------------ Quarto


def quarto() -> None:
    subprocess.run(['quarto', 'render', PROC, '--no-cache'], check=True)
    shutil.rmtree(DOCS, ignore_errors=True)
    shutil.move(PROC / DOCS.name, DOCS)
    index = DOCS / 'search.json'
    if index.exists():
        pages = {p.relative_to(DOCS).as_posix(): p.read_text(encoding='utf-8') for p in DOCS.rglob('*.html')}
        found = without_tex(json.loads(index.read_text(encoding='utf-8')), pages)
        index.write_text(json.dumps(found, ensure_ascii=False), encoding='utf-8')


# ------------------------------------------------------------------ Sphinx: the preview


def myst(text: str) -> str:
    "Quarto's markdown as MyST's: front matter as a heading, raw blocks, links to what will be HTML."
    if m := re.match(r'---\ntitle: (.*)\ndescription: (.*)\n---\n*', text):
        title, lead = json.loads(m[1]), json.loads(m[2])
        text = f'# {title}\n\n```{{container}} lead\n{lead}\n```\n\n' + text[m.end() :]
    text = text.replace('```{=html}', '```{raw} html')
    return re.sub(r'(\]\((?!\w+:)[^)\s]+?)\.(?:ipynb|qmd)(?=[)#])', r'\1.html', text)


def toctree(entries: list[str], caption: str = '', depth: int = 1) -> str:
    options = [':hidden:', f':maxdepth: {depth}']
    if caption:
        options.append(f':caption: {caption}')
    return '\n\n```{toctree}\n' + '\n'.join([*options, *entries]) + '\n```\n'


def mathml(app, node, display: str) -> None:
    "A formula as MathML, which browsers draw without a script or a font of ours."
    from docutils.nodes import SkipNode
    from latex2mathml.converter import convert

    formula = re.sub(
        r'(<mi>(?:log|exp|cos|sin|max|min|softmax|tr)</mi>)',
        r'\1<mspace width="0.17em"/>',
        convert(node.astext(), display=display),
    )
    app.body.append(f'<div class="math">{formula}</div>' if display == 'block' else formula)
    raise SkipNode


def setup(app) -> dict:
    "The Sphinx extension that this file is."
    inline = (lambda writer, node: mathml(writer, node, 'inline'), None)
    block = (lambda writer, node: mathml(writer, node, 'block'), None)
    app.add_html_math_renderer('mathml', inline, block)
    return dict(parallel_read_safe=True)


def toctrees(name: str, parts: list[dict]) -> str:
    "What follows a page in the site's tree, as it is added to the page; '' for most."

    def stem(path):
        return path.rpartition('.')[0]

    def entry(page):
        return f'{titled(page)} </{stem(page)}>' if page.endswith('.ipynb') else f'/{stem(page)}'

    if name == 'index.ipynb':
        return toctree([f'{p["title"]} <{stem(p["page"])}>' for p in parts])
    sections = next((p['sections'] for p in parts if p['page'] == name), [])
    return ''.join(toctree([*map(entry, pages)], title) for title, pages in sections if pages)


def code_for_myst(cell: dict) -> dict:
    "A code cell whose options for Quarto are MyST's tags."
    options, source = directives(cell), ''.join(cell['source'])
    tags = []
    if options.get('echo') == 'false':
        tags = ['remove-input']
    elif options.get('code-fold') == 'true':
        tags = ['hide-input']
    lines = re.sub(rf'^#\|\s*(?:{"|".join(KEPT)}):.*\n?', '', source, flags=re.M)
    return dict(cell, source=lines, metadata=dict(cell.get('metadata') or {}, tags=tags))


def notebook_for_myst(text: str, trees: str) -> str:
    "A notebook of _proc as MyST reads it, with its part of the tree at the end."
    nb = json.loads(text)
    for c in nb['cells']:
        if c['cell_type'] == 'code':
            c |= code_for_myst(c)
        else:
            c |= dict(cell_type='markdown', source=myst(''.join(c['source'])))
    if trees:
        nb['cells'].append(dict(cell_type='markdown', id='toctree', metadata={}, source=trees))
    return json.dumps(nb)


def preview(parts: list[dict]) -> None:
    "The pages in _proc, rendered by Sphinx."
    from sphinx.application import Sphinx

    source = PROC / '_sphinx'
    for path in [*PROC.rglob('*.ipynb'), *PROC.rglob('*.qmd')]:
        name, text = path.relative_to(PROC).as_posix(), path.read_text(encoding='utf-8')
        trees = toctrees(name, parts)
        is_notebook = name.endswith('.ipynb')
        to = source / (name if is_notebook else name.replace('.qmd', '.md'))
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(notebook_for_myst(text, trees) if is_notebook else myst(text) + trees, encoding='utf-8')
    shutil.rmtree(DOCS, ignore_errors=True)
    look = LOOK | dict(
        extensions=['myst_nb', 'pydata_sphinx_theme', __name__],
        html_math_renderer='mathml',
        nb_execution_mode='off',
        nb_render_markdown_format='myst',
        nb_ipywidgets_js={},
        myst_all_links_external=True,
        myst_enable_extensions=['dollarmath'],
        html_static_path=[str(NBS / n) for n in ('styles.css', 'favicon.svg', *SCRIPTS)],
        suppress_warnings=['myst.header', 'mystnb.unknown_mime_type'],
        myst_dmath_double_inline=True,
    )
    doctrees = PROC / '_doctrees'
    said = io.StringIO()
    app = Sphinx(source, None, DOCS, doctrees, 'html', confoverrides=look, status=None, warning=said)
    app.build()
    for folder in ('assets', 'images'):
        shutil.copytree(PROC / folder, DOCS / folder)
    for folder in (source, doctrees, DOCS.parent / 'jupyter_execute'):
        shutil.rmtree(folder, ignore_errors=True)
    if app.statuscode or said.getvalue():
        sys.exit(re.sub(r'\x1b\[[\d;]*m', '', said.getvalue()))


NO_LITE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>The tour in the browser</title>
<link rel="icon" href="data:,"></head><body><main>
<h1>The tour in the browser</h1>
<p>This copy of the docs was built without the notebooks that run in a browser:
<code>make lite</code> adds them, and <code>make lab</code> opens the same tour in JupyterLab.</p>
</main></body></html>
"""


def main() -> None:
    by_quarto = shutil.which('quarto') and '--preview' not in sys.argv
    parts = stage()
    if by_quarto:
        quarto()
    else:
        preview(parts)
    start = DOCS / 'lite' / 'start.html'  # tools/lite.py writes the real one
    start.parent.mkdir()
    start.write_text(NO_LITE, encoding='utf-8')
    pages = len(list(DOCS.rglob('*.html')))
    renderer = 'Quarto' if by_quarto else 'Sphinx: a preview; install Quarto for the real site'
    print(f'{pages} pages in {DOCS.name}, by {renderer}')


if __name__ == '__main__':
    main()
