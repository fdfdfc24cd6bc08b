"""The pages beside the lessons say what is so: every entry, link, name and picture is followed."""

import importlib
import json
import re
import shlex
from configparser import ConfigParser

import pytest
import yaml
from copies import ROOT

NBS = ROOT / 'nbs'
MAP = json.loads((ROOT / 'ofa_learn' / 'static' / 'paper_map.json').read_text(encoding='utf-8'))
ENTRIES = [
    pytest.param(e, id=f"{e['paper']}-{e['item']}-{i}".replace(' ', '_'))
    for i, e in enumerate(MAP['entries'])
]
PAGES = sorted((NBS / 'pages').glob('*.ipynb'))


def cells(path):
    return [
        (c['cell_type'], ''.join(c['source']), c.get('outputs', []))
        for c in json.loads(path.read_text(encoding='utf-8'))['cells']
    ]


def prose(path):
    return '\n'.join(s for kind, s, _ in cells(path) if kind == 'markdown')


def shown(path) -> str:
    "All text that a notebook's stored outputs hold."
    data = [o.get('data', {}) for _, _, outputs in cells(path) for o in outputs]
    return '\n'.join(
        [''.join(d.get('text/markdown', '')) for d in data]
        + [''.join(o.get('text', '')) for _, _, outputs in cells(path) for o in outputs]
    )


def under(path) -> dict[str, list[str]]:
    "A notebook's headings, each with the code cells between it and the next one."
    out, head = {}, ''
    for kind, source, _ in cells(path):
        if kind == 'markdown':
            for line in source.splitlines():
                if m := re.match(r'#+ (.+)', line):
                    head = m[1]
                    out.setdefault(head, [])
        elif head:
            out[head].append(source)
    return out


def importable(name):
    module, _, attribute = name.rpartition('.')
    return hasattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize('entry', ENTRIES)
def test_the_paper_mapped(entry):
    from ofa_learn.cli import COMMANDS
    from ofa_learn.recipes import recipes

    assert (
        entry['paper'] in MAP['papers']
        and entry['status'] in MAP['status']
        and entry['what']
        and entry['where']
        and entry['functions']
    )
    for w in entry['where']:
        headings = under(next(NBS.glob(f"*/{w['lesson']}.ipynb")))
        assert w['heading'] in headings, f"{w['lesson']} has no heading {w['heading']!r}"
        if 'cell' in w:
            assert sum(w['cell'] in c for c in headings[w['heading']]) == 1, (
                f"{w['cell']!r}: not in exactly one cell under {w['heading']!r} of {w['lesson']}"
            )
    for name in entry['functions']:
        assert importable(name), name
    assert set(entry.get('recipes', [])) <= set(recipes())
    if 'command' in entry:
        program, command, *_ = shlex.split(entry['command'])
        assert program == 'ofa-learn' and command in COMMANDS
    if entry['status'] == 'recipe':
        assert entry['recipes']
    assert set(entry) <= {
        'paper',
        'item',
        'what',
        'status',
        'where',
        'functions',
        'recipes',
        'command',
        'recorded',
        'note',
    }


def test_nothing_of_the_paper_is_left_out():
    have = {e['item'] for e in MAP['entries'] if e['paper'] == 'ofa'}
    assert {
        *(f'Eq. {i}' for i in range(1, 9)),
        *(f'Fig. {i}' for i in range(1, 4)),
        *(f'Table {i}' for i in range(1, 7)),
    } <= have
    assert {e['paper'] for e in MAP['entries']} == {'ofa', 'rsd', 'hcd', 'scalekd'}
    said = shown(NBS / 'pages' / 'paper_map.ipynb')
    missing = [e['what'] for e in MAP['entries'] if e['what'] not in said or e.get('note', '') not in said]
    assert not missing, (
        f'run nbs/pages/paper_map.ipynb again (make prepare NB=nbs/pages/paper_map.ipynb): {missing}'
    )


def links(text):
    return [
        t.split(' ')[0]
        for t in re.findall(r'\]\(([^)]+)\)', re.sub(r'```.*?```|`[^`\n]*`', '', text, flags=re.S))
    ]


@pytest.mark.parametrize(
    'path', [*PAGES, NBS / 'index.ipynb', ROOT / 'README.md', ROOT / 'CONTRIBUTING.md'], ids=lambda p: p.name
)
def test_links_lead_somewhere(path):
    text = path.read_text(encoding='utf-8') if path.suffix == '.md' else prose(path) + shown(path)
    inside = [t for t in links(text) if '://' not in t and not t.startswith(('#', 'mailto:'))]
    assert [t for t in inside if not (path.parent / t.split('#')[0]).exists()] == []
    assert inside


def test_recordings_that_the_map_names_are_there():
    from ofa_learn.recorded import recorded, recordings

    named = {r for e in MAP['entries'] for r in e.get('recorded', [])}
    assert named <= {'gamma', 'exits', 'methods', 'scale', 'clip'}
    for name in named & set(recordings()):
        assert recorded(name)


def test_every_method_is_listed():
    from ofa_learn.distill import all_methods

    for path in (NBS / 'pages' / 'methods.ipynb', NBS / 'index.ipynb'):
        text = prose(path) + shown(path)
        assert [m for m in all_methods() if f'| {m} |' not in text and f'`{m}`' not in text] == [], path.name


def test_the_readme_lists_lessons_walkthroughs_and_commands():
    from ofa_learn.cli import COMMANDS

    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    books = [
        p.relative_to(ROOT).as_posix()
        for p in [
            *NBS.glob('*/*.ipynb'),
        ]
    ]
    assert [b for b in books if f']({b})' not in text] == [], (
        'make prepare NB=nbs/index.ipynb renews the list of walkthroughs'
    )
    assert [c for c in COMMANDS if f'`ofa-learn {c}' not in text] == []


def test_the_picture_of_the_readme():
    ((alt, file),) = re.findall(r'!\[([^\]]+)\]\(([^)]+)\)', prose(NBS / 'index.ipynb'))
    assert (
        len(alt) > 100
        and (NBS / file).read_bytes()[:4] == b'\x89PNG'
        and (NBS / file).stat().st_size < 60_000
    )


def test_the_glossary_has_a_sentence_and_a_lesson_for_each_term():
    rows = [
        line.strip('|').split('|')
        for line in prose(NBS / 'pages' / 'notation.ipynb').splitlines()
        if line.startswith('| **')
    ]
    assert len(rows) > 40
    assert [r[0] for r in rows if not re.fullmatch(r' [A-Z].*\. ', r[1]) or '](../' not in r[2]] == []
    assert len({r[0] for r in rows}) == len(rows)


def test_citation():
    found = yaml.safe_load((ROOT / 'CITATION.cff').read_text(encoding='utf-8'))
    config = ConfigParser(delimiters=['='])
    config.read(ROOT / 'settings.ini', encoding='utf-8')
    assert {'cff-version', 'message', 'title', 'authors'} <= set(found) and found['title'] == config[
        'DEFAULT'
    ]['repo']
    assert str(found['version']) == config['DEFAULT']['version'] and found['authors'] == [
        {'name': config['DEFAULT']['author']}
    ]
    for r in found['references']:
        assert (
            r['type']
            and r['title']
            and r['authors']
            and all({'family-names', 'given-names'} == set(a) for a in r['authors'])
        ), r
    said = (ROOT / 'README.md').read_text(encoding='utf-8')
    for r in found['references']:
        assert r['authors'][0]['family-names'] in said


def test_contributing_names_what_is_there():
    text = (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')
    makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
    for target in re.findall(r'`make (\w+)', text):
        assert re.search(rf'^{target}:', makefile, re.M), target
    for name in re.findall(r'(?:tests|tools|ofa_learn|nbs)/[\w/.*]+', text):
        assert list(ROOT.glob(name.rstrip('.'))) or 'name.json' in name, name
    for word in ('ROOMS', 'BUILT_IN', 'METHODS', 'KINDS'):
        assert f'`{word}`' in text
