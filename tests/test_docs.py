"""What the docs site is made of, as far as it can be checked without a browser: its sources, its configuration, its links."""

import ast
import json
import re
import sys

import pytest
import yaml
from copies import ROOT

sys.path.insert(0, str(ROOT / 'tools'))
from docsite import broken_links, unshown

BOOKS = sorted(
    p
    for p in (ROOT / 'nbs').rglob('*.ipynb')
    if not any(s[0] in '._' for s in p.relative_to(ROOT / 'nbs').parts)
)
ABROAD = re.compile(
    r'<(?:script|link|img|iframe|source|video)\b[^>]*\b(?:src|href)=["\']?(?:https?:)?//[^>]*>|@import[^;]*//[^;]*;|url\(["\']?(?:https?:)?//',
    re.I,
)


def is_import(node):
    return isinstance(node, (ast.Import, ast.ImportFrom))


def read(path):
    return path.read_text(encoding='utf-8')


@pytest.mark.parametrize('path', BOOKS, ids=lambda p: p.stem)
def test_import_cells_hold_imports_only(path):
    "The exported imports are the module's first lines, and tools that build a reference run cells with imports."
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
    pages = lambda folder: {
        p.relative_to(folder).as_posix()
        for p in folder.rglob('*.ipynb')
        if not any(s[0] in '._' for s in p.relative_to(folder).parts)
    }
    assert pages(built / '_proc') == pages(built / 'nbs')
    website = yaml.safe_load(read(built / '_proc' / 'sidebar.yml'))['website']
    names = list(listed(website['sidebar']['contents']))
    assert len(names) == len(set(names)) and pages(built / 'nbs') <= set(names)
    assert {p.relative_to(built / '_proc').as_posix() for p in (built / '_proc').rglob('*.qmd')} <= set(names)
    assert not [n for n in [*names, *listed(website['navbar']['left'])] if not (built / '_proc' / n).exists()]


def test_pages_have_front_matter_and_lose_nothing(built):
    for path in (built / '_proc').rglob('*.ipynb'):
        cells = json.loads(read(path))['cells']
        top = ''.join(cells[0]['source'])
        assert cells[0]['cell_type'] == 'raw' and set(yaml.safe_load(top.strip('-\n'))) == {
            'title',
            'description',
        }, path.name
        assert unshown(cells) == [], path.name
        original = json.loads(read(built / 'nbs' / path.relative_to(built / '_proc')))['cells']
        gone = [
            c
            for c in original
            if re.search(r'^#\|\s*(?:hide|default_exp)\b', ''.join(c['source']), re.M)
            and c['cell_type'] == 'code'
        ]
        assert sum(c['cell_type'] == 'code' for c in cells) == sum(
            c['cell_type'] == 'code' for c in original
        ) - len(gone), path.name


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
    configs = [
        built / '_proc' / '_quarto.yml',
        *(
            built / '_proc' / f
            for f in yaml.safe_load(read(built / '_proc' / '_quarto.yml'))['metadata-files']
        ),
    ]
    assert [c.name for c in configs] == ['_quarto.yml', '_quarto.yml', 'nbdev.yml', 'sidebar.yml']
    missing = [
        f'{c.name}: {n}'
        for c in configs
        for n in named(yaml.safe_load(read(c)))
        if not (built / '_proc' / n).exists()
    ]
    assert not missing
    site = yaml.safe_load(read(built / '_quarto.yml'))
    assert (
        site['project']['type'] == 'website'
        and site['format']['html']['html-math-method'] == 'mathml'
        and site['execute'] == {'enabled': False}
    )


def test_links_lead_somewhere_and_nothing_is_asked_of_others(built):
    docs = built / '_docs'
    files = {p.relative_to(docs).as_posix() for p in docs.rglob('*') if p.is_file()}
    pages = {n: read(docs / n) for n in files if n.endswith('.html') and not n.startswith('_static/')}
    assert len(pages) > len(BOOKS) and broken_links(pages, files) == []
    styles = {n: read(docs / n) for n in files if n.endswith('.css')}
    assert {n: found for n, text in (pages | styles).items() if (found := ABROAD.findall(text))} == {}
    assert ABROAD.search('<script defer src="https://cdn.example/x.js"></script>') and ABROAD.search(
        "@import url(//fonts.example/a.css);"
    )
