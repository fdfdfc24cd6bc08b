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
REQUIRED = {'paper', 'item', 'what', 'status', 'where', 'functions'}
OPTIONAL = {'recipes', 'command', 'recorded', 'note'}
METHODS = NBS / 'pages' / 'methods.ipynb'
PAGES = sorted((NBS / 'pages').glob('*.ipynb'))


def read(path):
    return path.read_text(encoding='utf-8')


def cells(path):
    found = json.loads(read(path))['cells']
    return [(c['cell_type'], ''.join(c['source']), c.get('outputs', [])) for c in found]


def prose(path):
    return '\n'.join(s for kind, s, _ in cells(path) if kind == 'markdown')


def shown(path) -> str:
    "All text that a notebook's stored outputs hold."
    outputs = [o for _, _, of_cell in cells(path) for o in of_cell]
    rendered = [''.join(o.get('data', {}).get('text/markdown', '')) for o in outputs]
    printed = [''.join(o.get('text', '')) for o in outputs]
    return '\n'.join(rendered + printed)


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

    assert REQUIRED <= set(entry) <= REQUIRED | OPTIONAL
    assert entry['paper'] in MAP['papers'] and entry['status'] in MAP['status']
    assert entry['what'] and entry['where'] and entry['functions']
    for w in entry['where']:
        headings = under(next(NBS.glob(f"*/{w['lesson']}.ipynb")))
        assert w['heading'] in headings, f"{w['lesson']} has no heading {w['heading']!r}"
        if 'cell' in w:
            holding = [c for c in headings[w['heading']] if w['cell'] in c]
            place = f"under {w['heading']!r} of {w['lesson']}"
            assert len(holding) == 1, f"{w['cell']!r}: in {len(holding)} cells {place}, should be in one"
    for name in entry['functions']:
        assert importable(name), name
    assert set(entry.get('recipes', [])) <= set(recipes())
    if 'command' in entry:
        program, command, *_ = shlex.split(entry['command'])
        assert program == 'ofa-learn' and command in COMMANDS
    if entry['status'] == 'recipe':
        assert entry['recipes']


def test_nothing_of_the_paper_is_left_out():
    have = {e['item'] for e in MAP['entries'] if e['paper'] == 'ofa'}
    for kind, last in (('Eq.', 8), ('Fig.', 3), ('Table', 6)):
        assert {f'{kind} {i}' for i in range(1, last + 1)} <= have
    papers = {'ofa', 'rsd', 'hcd', 'scalekd', 'lskd', 'wttm', 'deit', 'vkd'}
    assert {e['paper'] for e in MAP['entries']} == papers == set(MAP['papers'])
    said = shown(NBS / 'pages' / 'paper_map.ipynb')
    missing = []
    for e in MAP['entries']:
        names = [name.removeprefix('ofa_learn.') for name in e['functions']]
        missing += [text for text in (e['what'], e.get('note', ''), *names) if text not in said]
    assert not missing, f'run it again (make prepare NB=nbs/pages/paper_map.ipynb): {missing}'


def links(text):
    without_code = re.sub(r'```.*?```|`[^`\n]*`', '', text, flags=re.S)
    return [target.split(' ')[0] for target in re.findall(r'\]\(([^)]+)\)', without_code)]


WITH_LINKS = [*PAGES, NBS / 'index.ipynb', ROOT / 'README.md', ROOT / 'CONTRIBUTING.md']


@pytest.mark.parametrize('path', WITH_LINKS, ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    text = read(path) if path.suffix == '.md' else prose(path) + shown(path)
    inside = [t for t in links(text) if '://' not in t and not t.startswith(('#', 'mailto:'))]
    assert [t for t in inside if not (path.parent / t.split('#')[0]).exists()] == []
    assert inside


def test_recordings_that_the_map_names_are_there():
    from ofa_learn.recorded import recorded, recordings

    named = {r for e in MAP['entries'] for r in e.get('recorded', [])}
    assert named <= {'lab_gamma', 'lab_exits', 'methods', 'scale', 'lab_clip'}
    for name in named & set(recordings()):
        assert recorded(name)


def test_every_method_is_listed():
    from ofa_learn.tasks import all_methods

    text = prose(METHODS) + shown(METHODS)
    assert [m for m in all_methods() if f'`{m}`' not in text] == []
    said = prose(METHODS)  # what a step costs, as it was measured
    assert [m for m in all_methods() if not re.search(rf'^\| `{m}` \| \d+\.\d \|', said, re.M)] == []


def test_all_lessons_walkthroughs_and_commands_are_listed():
    from ofa_learn.cli import COMMANDS

    path = NBS / 'pages' / 'lessons.ipynb'
    text = prose(path) + shown(path)
    books = [p for p in NBS.glob('*/[0-9]*.ipynb')]
    missing = [p.name for p in books if f'](../{p.parent.name}/{p.name})' not in text]
    promises = [re.search(r'^> (.+)$', prose(p), re.M)[1] for p in books if p.parent.name == 'walkthroughs']
    missing += [line for line in promises if line not in text]
    assert not missing, 'make prepare NB=nbs/pages/lessons.ipynb renews the list of walkthroughs'
    text = prose(NBS / 'pages' / 'command_line.ipynb')
    assert [c for c in COMMANDS if f'`ofa-learn {c}' not in text] == []


def test_the_readme_is_short_and_leads_on():
    "What it is, a picture, how to install it and ten lines stand on the first screen; lists are pages."
    text = read(ROOT / 'README.md')
    words = re.sub(r'```.*?```', '', text, flags=re.S)
    words = re.sub(r'\]\([^)]*\)', ']', words)
    assert len(words.split()) <= 1200
    first = text[: text.index('## ')]
    assert '.gif)' in first and 'pip install ofa-learn' in first and len(first.splitlines()) < 45
    code = re.search(r'```python\n(.*?)```', first, re.S)[1]
    assert len([line for line in code.splitlines() if line and 'import' not in line]) <= 10
    pages = ('lessons', 'command_line', 'methods', 'results', 'paper_map', 'notation', 'traps')
    assert [p for p in pages if f'](nbs/pages/{p}.ipynb)' not in text] == []


def test_the_results_count_what_the_laboratory_holds():
    "The sentence on how many differences to labels alone are beyond noise is that of the recording."
    from ofa_learn.recorded import recorded
    from ofa_learn.records import holm, named, results

    compared = [r for r in results(named(recorded('lab')), 'labels') if r['p'] is not None]
    verdicts = [r['verdict'] for r in compared]
    (to_a_pair,) = {r['comparisons'] for r in compared}
    stay = sum(r['stays'] for r in compared)
    of_all = sum(p < 0.05 for p in holm([r['p'] for r in compared]))
    assert verdicts.count('worse') == 1
    assert (
        f'of {len(compared)} comparisons with labels alone, {to_a_pair} to a pair, '
        f'{verdicts.count("better")} are better and one is worse beyond noise, where chance would give about '
        f'{len(compared) / 20:.0f}. {stay} stay when the {to_a_pair} of each pair are corrected for their '
        f'number, and {of_all} when all {len(compared)} are.'
    ) in prose(NBS / 'pages' / 'results.ipynb')


def test_the_rule_of_verdicts_is_one():
    "No page goes by two standard errors: where they are named, it is to show why the tables do not."
    found = {
        p.name
        for p in NBS.rglob('*.ipynb')
        if re.search(r'twice (its|their|the) standard', p.read_text('utf-8'))
    }
    assert found == set()


def test_the_pictures_of_the_readme():
    found = re.findall(r'!\[([^\]]+)\]\(([^)]+)\)', prose(NBS / 'index.ipynb'))
    assert [file for _, file in found] == ['images/gamma_explorer.gif', 'images/demo.png']
    for alt, file in found:
        assert len(alt) > 100
        begins, limit = {'.gif': (b'GIF8', 1_000_000), '.png': (b'\x89PNG', 60_000)}[file[-4:]]
        picture = (NBS / file).read_bytes()
        assert picture.startswith(begins) and len(picture) < limit


def test_the_glossary_has_a_sentence_and_a_lesson_for_each_term():
    lines = prose(NBS / 'pages' / 'notation.ipynb').splitlines()
    rows = [line.strip('|').split('|') for line in lines if line.startswith('| **')]
    assert len(rows) > 40
    assert [r[0] for r in rows if not re.fullmatch(r' [A-Z].*\. ', r[1]) or '](../' not in r[2]] == []
    assert len({r[0] for r in rows}) == len(rows)


def test_citation():
    found = yaml.safe_load(read(ROOT / 'CITATION.cff'))
    config = ConfigParser(delimiters=['='])
    config.read(ROOT / 'settings.ini', encoding='utf-8')
    settings = config['DEFAULT']
    assert {'cff-version', 'message'} <= set(found)
    assert found['title'] == settings['repo'] and found['authors'] == [{'name': settings['author']}]
    assert str(found['version']) == settings['version']
    readme = read(ROOT / 'README.md')
    for r in found['references']:
        assert r['type'] and r['title'] and r['authors'], r
        assert all(set(a) == {'family-names', 'given-names'} for a in r['authors']), r
        assert r['authors'][0]['family-names'] in readme


def test_contributing_names_what_is_there():
    text, makefile = read(ROOT / 'CONTRIBUTING.md'), read(ROOT / 'Makefile')
    for target in re.findall(r'`make (\w+)', text):
        assert re.search(rf'^{target}:', makefile, re.M), target
    for name in re.findall(r'(?:tests|tools|ofa_learn|nbs)/[\w/.*]+', text):
        assert list(ROOT.glob(name.rstrip('.'))) or 'name.json' in name, name
    for word in ('ROOMS', 'BUILT_IN', 'METHOD_STYLES', 'KINDS'):
        assert f'`{word}`' in text
