"""What the docs site is made of, as far as it can be checked without a browser.

That is its sources, its configuration and its links.
"""

import ast
import json
import re

import pytest
import yaml
from copies import ROOT
from docsite import KEPT, broken_links, directives, unshown

# What makes a browser ask another site for something, in a page or in a style sheet.
ABROAD = re.compile(
    r"""<(?:script|link|img|iframe|source|video)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*>"""
    r"""|@import[^;]*//[^;]*;|url\(["']?(?:https?:)?//""",
    re.I,
)


def notebooks(folder):
    "The notebooks under a folder, but for those in hidden or private ones."
    paths = sorted(folder.rglob('*.ipynb'))
    return [p for p in paths if not any(s[0] in '._' for s in p.relative_to(folder).parts)]


def names(folder, paths):
    return {p.relative_to(folder).as_posix() for p in paths}


BOOKS = notebooks(ROOT / 'nbs')


def is_import(node):
    "An import, or imports that only a type checker does."
    if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING':
        return all(map(is_import, node.body)) and not node.orelse
    return isinstance(node, (ast.Import, ast.ImportFrom))


def read(path):
    return path.read_text(encoding='utf-8')


# All but the first page: it exports nothing, and a reader copies its lines in one go.
@pytest.mark.parametrize('path', [p for p in BOOKS if p.stem != 'index'], ids=lambda p: p.stem)
def test_import_cells_hold_imports_only(path):
    "The exported imports are the module's first lines, and tools that build a reference run such cells."
    for i, cell in enumerate(json.loads(path.read_text())['cells']):
        source = ''.join(cell['source'])
        if cell['cell_type'] != 'code' or not source.strip():
            continue
        kinds = {is_import(n) for n in ast.parse(source).body}
        assert kinds != {True, False}, f'cell {i}: {source[:80]}'


def listed(contents):
    "Every file that a sidebar or bar names."
    for entry in contents:
        if isinstance(entry, str):
            yield entry
        else:
            if 'href' in entry:
                yield entry['href']
            yield from listed(entry.get('contents', []))


def beside(website):
    "Every file that stands in a sidebar; each part of the site has its own."
    return [name for part in website['sidebar'] for name in listed(part['contents'])]


def test_every_notebook_becomes_a_page_with_a_place(built):
    proc = built / '_proc'
    sources = names(built / 'nbs', notebooks(built / 'nbs'))
    assert names(proc, notebooks(proc)) == sources
    website = yaml.safe_load(read(proc / 'sidebar.yml'))['website']
    side = beside(website)
    assert len(side) == len(set(side))
    assert sources - {'index.ipynb'} | names(proc, proc.rglob('*.qmd')) == set(side)
    bar = list(listed(website['navbar']['left']))
    assert not [n for n in [*side, *bar] if not (proc / n).exists()]
    # A part marks itself in the bar, and no other does, where each has a sidebar that begins with its page.
    assert bar == [next(listed(part['contents'])) for part in website['sidebar']]
    assert len({part['id'] for part in website['sidebar']}) == len(bar)


def test_the_sidebar_follows_the_folders(built):
    website = yaml.safe_load(read(built / '_proc' / 'sidebar.yml'))['website']
    side = [n for n in beside(website) if n.endswith('.ipynb')]
    folders = ('course', 'methods', 'walkthroughs', 'running', 'widgets', 'internals', 'pages')
    assert list(dict.fromkeys(n.split('/')[0] for n in side)) == list(folders)
    for folder in folders:
        inside = [n for n in side if n.startswith(f'{folder}/')]
        assert inside == sorted(inside)


def is_hidden(cell):
    return bool(re.search(r'^#\|\s*(?:hide|default_exp)\b', ''.join(cell['source']), re.M))


def test_pages_have_front_matter_and_lose_nothing(built):
    for path in (built / '_proc').rglob('*.ipynb'):
        cells = json.loads(read(path))['cells']
        top = cells[0]
        assert top['cell_type'] == 'raw', path.name
        front = yaml.safe_load(''.join(top['source']).strip('-\n'))
        assert set(front) == {'title', 'description'}, path.name
        assert unshown(cells) == [], path.name
        original = json.loads(read(built / 'nbs' / path.relative_to(built / '_proc')))['cells']
        to_show = [c for c in original if c['cell_type'] == 'code' and not is_hidden(c)]
        assert sum(c['cell_type'] == 'code' for c in cells) == len(to_show), path.name


def code_of(path):
    return [c for c in json.loads(read(path))['cells'] if c['cell_type'] == 'code' and not is_hidden(c)]


def test_options_stay_and_what_is_to_be_predicted_is_folded(built):
    options, hidden = 0, 0
    for path in notebooks(built / 'nbs'):
        page = built / '_proc' / path.relative_to(built / 'nbs')
        for source, made in zip(code_of(path), code_of(page)):
            kept = {k: v for k, v in directives(source).items() if k in KEPT}
            if (source['metadata'].get('jupyter') or {}).get('source_hidden'):
                assert kept.setdefault('code-fold', 'true') == 'true', page.name
            assert directives(made) == kept, page.name
            options += len(kept)
            if (source['metadata'].get('jupyter') or {}).get('outputs_hidden'):
                assert made['outputs'] == [], page.name
        unread = [c for c in code_of(path) if (c['metadata'].get('jupyter') or {}).get('outputs_hidden')]
        folded = read(page).count('<details class=\\"result\\">')
        assert folded == sum(bool(c['outputs']) for c in unread), page.name
        hidden += folded
    assert options > 8 and hidden > 20


# Each was put through pandoc 3.9, `pandoc --mathml`; what it does not know it leaves on the page as TeX.
PANDOC_KNOWS = """
    Big Phi Vert alpha approx arg bar begin beta big binom cdot cos dots ell end exp frac gamma hat in infty
    kappa lVert lambda langle le left leftarrow lfloor log mathbb mathcal max mid mu ne operatorname overline
    partial pi pm prod psi qquad quad rVert rangle rfloor rho right sigma sqrt sum tag tau text tfrac theta
    tilde times to top underbrace varepsilon varphi
"""


@pytest.mark.parametrize('path', BOOKS, ids=lambda p: p.stem)
def test_formulas_are_such_as_pandoc_draws(path):
    cells = json.loads(read(path))['cells']
    written = [''.join(c['source']) for c in cells if c['cell_type'] == 'markdown']
    computed = [o.get('data', {}).get('text/markdown', '') for c in cells for o in c.get('outputs', [])]
    text = '\n'.join([*written, *map(''.join, computed)])
    formulas = re.findall(
        r'\$\$.*?\$\$|\$[^$\n]+\$', re.sub(r'```.*?```|`[^`]*`', '', text, flags=re.S), re.S
    )
    used = set(re.findall(r'\\([A-Za-z]+)', ' '.join(formulas)))
    unknown = used - set(PANDOC_KNOWS.split())
    assert not unknown


def brightness(colour):
    "The relative luminance of #rrggbb (WCAG 2)."
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    low, high = sorted([brightness(one), brightness(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize('shade, line', [('light', ':root'), ('dark', 'html[data-theme="dark"], body')])
def test_colours_of_text_stand_out(shade, line):
    css = next(x for x in read(ROOT / 'nbs' / 'styles.css').splitlines() if x.startswith(line))
    own = dict(re.findall(r'--ofa-(\w+): (#\w{6})', css))
    quarto = dict(re.findall(r'\$([\w-]+): (#\w{6})', read(ROOT / 'nbs' / f'{shade}.scss')))
    page, box = quarto['body-bg'], own['back']
    for text in (own['soft'], own['text'], own['code'], quarto['body-color'], quarto['link-color']):
        assert contrast(text, page) >= 4.5 and contrast(text, box) >= 4.5, (shade, text)


def test_pictures_have_words(built):
    for path in [*(built / '_proc').rglob('*.ipynb'), *(built / '_proc').rglob('*.qmd')]:
        text = read(path)
        assert not re.search(r'!\[[^\]]*\]\(', text), path.name  # pandoc makes the words a caption only
        assert not re.search(r'<img (?![^>]*alt=\\?"[^"\\])', text), path.name


def named(config):
    "Every file that a Quarto configuration names, but for those that sections list."
    if isinstance(config, dict):
        for k, v in config.items():
            if k in ('metadata-files', 'css', 'favicon', 'logo', 'resources', 'light', 'dark'):
                yield from (x for x in ([v] if isinstance(v, str) else v) if x != 'default')
            else:
                yield from named(v)
    elif isinstance(config, list):
        for v in config:
            yield from named(v)


def test_quarto_finds_every_file_that_it_is_told_of(built):
    proc = built / '_proc'
    first = proc / '_quarto.yml'
    configs = [first, *(proc / f for f in yaml.safe_load(read(first))['metadata-files'])]
    assert [c.name for c in configs] == ['_quarto.yml', '_quarto.yml', 'nbdev.yml', 'sidebar.yml']
    for config in configs:
        missing = [n for n in named(yaml.safe_load(read(config))) if not (proc / n).exists()]
        assert not missing, config.name
    site = yaml.safe_load(read(built / '_quarto.yml'))
    assert site['project']['type'] == 'website'
    assert site['format']['html']['html-math-method'] == 'mathml'
    assert site['execute'] == {'enabled': False}
    look = dict(site['format']['html'])
    expected = {'respect-user-color-scheme': True, 'code-overflow': 'wrap', 'tbl-colwidths': False}
    assert {option: look[option] for option in expected} == expected
    made = yaml.safe_load(read(proc / 'sidebar.yml'))['format']['html']['include-after-body']
    assert 'tabIndex' in made[0]['text']  # what scrolls can be reached by keyboard


def test_links_lead_somewhere_and_nothing_is_asked_of_others(built):
    docs = built / '_docs'
    files = {p.relative_to(docs).as_posix() for p in docs.rglob('*') if p.is_file()}
    pages = {n: read(docs / n) for n in files if n.endswith('.html') and not n.startswith('_static/')}
    assert len(pages) > len(BOOKS) and broken_links(pages, files) == []
    styles = {n: read(docs / n) for n in files if n.endswith('.css')}
    assert [n for n, text in (pages | styles).items() if ABROAD.search(text)] == []


def test_what_is_asked_of_others_is_seen():
    assert ABROAD.search('<script defer src="https://cdn.example/x.js"></script>')
    assert ABROAD.search('@import url(//fonts.example/a.css);')
