"""What the docs site is made of, as far as it can be checked without a browser.

That is its sources, its configuration and its links.
"""

import ast
import json
import re

import pytest
import yaml
from copies import ROOT
from docsite import broken_links, unshown

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
    return isinstance(node, (ast.Import, ast.ImportFrom))


def read(path):
    return path.read_text(encoding='utf-8')


@pytest.mark.parametrize('path', BOOKS, ids=lambda p: p.stem)
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


def test_every_notebook_becomes_a_page_with_a_place(built):
    proc = built / '_proc'
    sources = names(built / 'nbs', notebooks(built / 'nbs'))
    assert names(proc, notebooks(proc)) == sources
    website = yaml.safe_load(read(proc / 'sidebar.yml'))['website']
    side = list(listed(website['sidebar']['contents']))
    assert len(side) == len(set(side))
    assert sources | names(proc, proc.rglob('*.qmd')) <= set(side)
    assert not [n for n in [*side, *listed(website['navbar']['left'])] if not (proc / n).exists()]


def test_the_sidebar_follows_the_folders(built):
    website = yaml.safe_load(read(built / '_proc' / 'sidebar.yml'))['website']
    side = [n for n in listed(website['sidebar']['contents']) if n.endswith('.ipynb') and '/' in n]
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
