"""Notebooks as pages of the docs: what nbdev's processor `Page` makes of each, reference, navigation, checks.

`make docs` builds a site from the notebooks under nbs/. Quarto renders it where it is installed, Sphinx
otherwise (a preview), and neither runs a cell: a page shows what the notebook has stored. Three things would
be missing if the notebooks were handed over as they are. Plotly stores a figure as JSON, which neither of
them draws; a widget stores a view that is dead without a kernel; and nbdev's own processors take the first
cell of a notebook for its title, drop all other text in it, and replace exported code by its signature, while
the code is what these lessons are about. So nbdev reads the name of this file's processor from `procs` in
settings.ini.

A *cell* is a dict with `cell_type`, `source` and, for code, `outputs`, as in a notebook's file.
"""

import ast
import html
import inspect
import io
import json
import posixpath
import re
import textwrap
import tokenize
from functools import cache, lru_cache
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path

import plotly.graph_objects as go
from fastcore.basics import AttrDict

from ofa_learn.pages import PAGE_VERSION, figure_html


def joined(text: str | list[str]) -> str:
    "Text of a notebook, which may be stored as a list of lines."
    return text if isinstance(text, str) else ''.join(text)


def directives(cell: dict) -> dict[str, str]:
    "The names after `#|` at the top of a cell, each with what follows it."
    by_nbdev = cell.get('directives_') or {}  # those that it has taken off
    taken = {name.rstrip(':'): ' '.join(words or []) for name, words in by_nbdev.items()}
    return taken | dict(re.findall(r'^#\|\s*([\w-]+):?[ \t]*(.*)$', joined(cell['source']), re.M))


def markdown(
    source: str,  # its text
    name: str = '',  # its id; notebooks want one for every cell
) -> AttrDict:  # the cell
    "A markdown cell."
    return AttrDict(cell_type='markdown', id=name, metadata=AttrDict(), source=source)


PLOTLY = 'application/vnd.plotly.v1+json'
IMAGES = ('image/png', 'image/jpeg')


@cache  # several pages show the same widget
def version_of(stored: str) -> str:
    """A stored static version of a widget, or, for @module:Class, that of the widget without arguments.

    Large ones are not kept in notebooks but made when a page is built.
    """
    if not stored.startswith('@'):
        return stored
    module, name = stored[1:].split(':')
    return getattr(import_module(module), name)().page_version()


def as_html(
    data: dict,  # of one output: {MIME type: what is stored}
    alt: str | None = None,  # what a picture shows, in words
) -> str | None:  # None: it is text, and any page shows it as it is
    "What a page without a kernel shows for an output, as HTML."
    if PAGE_VERSION in data:
        return version_of(joined(data[PAGE_VERSION]))
    if PLOTLY in data:
        as_wide_as_the_page = go.Figure(data[PLOTLY]).update_layout(width=None)
        return figure_html(as_wide_as_the_page)
    if 'text/html' in data:
        return joined(data['text/html'])
    kind = next((k for k in IMAGES if k in data), None)
    if kind is None:
        return None
    if not alt:
        raise ValueError(
            'fig-alt: expected a line `#| fig-alt: what the picture shows` at the top of its cell, got none'
        )
    picture = ''.join(joined(data[kind]).split())
    return f'<p class="picture"><img src="data:{kind};base64,{picture}" alt="{html.escape(alt)}"></p>'


def raw(markup: str) -> str:
    """HTML as a block of markdown that is handed on untouched.

    It does not go back into the outputs: Quarto takes an output of type `text/html` for a JavaScript widget
    and adds two scripts from a third party to the page. Empty lines would end the HTML for other renderers.
    """
    return '```{=html}\n' + re.sub(r'\n\s*\n', '\n', markup.strip()) + '\n```'


KEPT = ('echo', 'code-fold', 'code-summary')  # options that tell the renderer how to show a cell
USED = ('default_exp', 'export', 'exporti', 'hide', 'eval', 'fig-alt')  # those that nbdev and this file read


def shown_source(cell: dict) -> str:
    """A code cell's source on a page: without directives, but for the options that the renderer reads.

    What JupyterLab shows folded is folded on the page, too: in an exported cell a directive would not do,
    since nbdev copies it into the module.
    """
    options = directives(cell)
    if (cell.get('metadata') or {}).get('jupyter', {}).get('source_hidden'):
        options.setdefault('code-fold', 'true')
    if unknown := sorted(set(options) - {*KEPT, *USED}):
        raise ValueError(f'#| {unknown[0]}: expected one of {", ".join((*KEPT, *USED))}')
    lines = [line for line in joined(cell['source']).split('\n') if not line.startswith('#|')]
    kept = [f'#| {name}: {options[name]}' for name in KEPT if name in options]
    return '\n'.join([*kept, '\n'.join(lines).strip('\n')])


def plain(output: dict) -> str:
    "The text of an output."
    return joined(output.get('text') or output.get('data', {}).get('text/plain', ''))


def folded(blocks: list[str]) -> str:
    "Results that a reader is to predict first, as one block of markdown."
    return '\n\n'.join(
        [raw('<details class="result"><summary>The result</summary>'), *blocks, raw('</details>')]
    )


def settle(cell: dict) -> list[AttrDict]:
    """A cell as a page shows it: text as its outputs, then a markdown cell per picture or computed table.

    What the notebook keeps hidden until the reader has predicted it is folded.
    """
    if cell['cell_type'] != 'code':
        return [cell]
    alt = directives(cell).get('fig-alt')
    predicted = (cell.get('metadata') or {}).get('jupyter', {}).get('outputs_hidden')
    stay, follow = [], []
    for output in cell.get('outputs') or []:
        data = output.get('data', {})
        markup = as_html(data, alt)
        if markup is not None:
            follow.append(raw(markup))
        elif 'text/markdown' in data:  # then a computed table looks like a written one
            follow.append(joined(data['text/markdown']))
        elif predicted:
            text = html.escape(plain(output)).replace('\n', '&#10;')  # `raw` would take its empty lines
            follow.append(raw(f'<pre>{text}</pre>'))
        else:
            stay.append(output)
    if predicted and follow:
        follow = [folded(follow)]
    cells = [markdown(text, f'{cell.get("id", "")}-{i}') for i, text in enumerate(follow)]
    return [AttrDict(dict(cell, source=shown_source(cell), outputs=stay)), *cells]


def front_matter(
    source: str,  # of a notebook's first markdown cell
) -> tuple[dict, str]:  # title and description; the rest of the cell
    "Heading and subtitle of a notebook, and what follows them."
    text = joined(source)
    m = re.match(r'#\s+(\S.*)\n+>\s*(\S.*)(?:\n+|$)', text)
    if not m:
        raise ValueError(f'first cell: expected a line "# title" and a line "> subtitle", got {text[:60]!r}')
    return dict(title=m[1].strip(), description=m[2].strip()), text[m.end() :]


def fenced(facts: dict[str, str]) -> str:
    "Front matter as text: YAML between two lines of dashes."
    lines = [f'{name}: {json.dumps(value, ensure_ascii=False)}' for name, value in facts.items()]
    return '\n'.join(['---', *lines, '---'])


def definitions(cell: dict) -> list[ast.AST]:
    "The public functions and classes that a cell exports, as syntax trees."
    if cell['cell_type'] != 'code' or 'export' not in directives(cell):
        return []
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found = [n for n in ast.parse(joined(cell['source'])).body if isinstance(n, kinds)]
    return [n for n in found if not n.name.startswith('_')]


def module_of(cells: list[dict]) -> str | None:
    "The module that a notebook exports, or None."
    return next((d['default_exp'] for d in map(directives, cells) if d.get('default_exp')), None)


@lru_cache
def homes(
    folder: Path,  # with the notebooks
) -> dict[str, tuple[str, str]]:  # {name: (notebook, module)}
    "Where each public name is defined, but for names that two lessons define: a link could be wrong."
    found = {}
    for path in sorted(folder.glob('*/[0-9]*.ipynb')):
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        home = path.relative_to(folder).as_posix()
        for cell in cells:
            for definition in definitions(cell):
                found.setdefault(definition.name, set()).add((home, module_of(cells)))
    return {name: at.pop() for name, at in found.items() if len(at) == 1}


HOME_PICTURE, TOUR = 'images/gamma_explorer.gif', 'walkthroughs/10_slide_gamma.ipynb'
BUTTON = (
    '<p class="start"><a href="lite/start.html">Run the tour in this browser, with nothing installed</a></p>'
)


def first_widget(
    cells: list[dict],  # of a notebook, with its outputs
) -> str:  # HTML
    "The page version of a notebook's first widget."
    outputs = [o for cell in cells for o in cell.get('outputs') or []]
    kept = [o['data'][PAGE_VERSION] for o in outputs if PAGE_VERSION in o.get('data', {})]
    if not kept:
        raise ValueError('expected a widget with a stored page version, got none: `make prepare` stores it')
    return version_of(joined(kept[0]))


def at_home(
    source: str,  # markdown of the first page
    top: Path,  # the notebooks' folder
) -> str:
    """The first page with links to pages of the docs, and the γ explorer itself in place of its picture.

    Above the explorer stands a button to the tour that runs in a browser.
    """
    source = source.replace('`CONTRIBUTING.md`', '[`CONTRIBUTING.md`](contributing.qmd)')
    if f']({HOME_PICTURE})' not in source:
        return source
    tour = json.loads((top / TOUR).read_text(encoding='utf-8'))
    alive = raw(BUTTON + '\n' + first_widget(tour['cells']))
    return re.sub(rf'^!\[[^\]]+\]\({re.escape(HOME_PICTURE)}\)$', lambda m: alive, source, flags=re.M)


PICTURE = re.compile(r'^!\[([^\]]+)\]\(([^)\s]+)\)$', re.M)


def pictured(
    source: str,  # markdown
) -> str:
    "Markdown in which a picture that is a paragraph keeps its words: Quarto would make them a caption only."

    def image(m):
        return raw(f'<p class="shot"><img src="{m[2]}" alt="{html.escape(m[1])}"></p>')

    return PICTURE.sub(image, source)


FENCED = re.compile(r'(^(?:```|~~~).*?^(?:```|~~~)[ \t]*$)', re.M | re.S)
TICKED = re.compile(r'(?<![\[`\w])`([A-Za-z_]\w*)(\(\))?`(?![`\w])(?![^\[\n]*\]\()')


def anchor(module: str, name: str) -> str:
    "The id of a definition on its page."
    return f'ofa_learn.{module}.{name}'


def mark(module: str, name: str) -> str:
    "The place on a page to which links to a definition lead."
    return f'<span id="{anchor(module, name)}"></span>'


def linked(
    source: str,  # markdown
    page: str,  # the page's path, from the site's top
    where: dict,  # of `homes`
) -> str:
    "Markdown in which names of the package lead to their definitions."

    def link(m):
        home, module = where.get(m[1], (page, None))
        if home == page:  # it would lead a few lines up or down
            return m[0]
        return f'[{m[0]}]({"../" * page.count("/")}{home}#{anchor(module, m[1])})'

    parts = FENCED.split(source)
    parts[::2] = [TICKED.sub(link, text) for text in parts[::2]]  # those between stand in fences
    return ''.join(parts)


def page(
    cells: list[dict],  # of a notebook
    path: str,  # its path, from the site's top
    where: dict,  # of `homes`
) -> list[AttrDict]:  # the cells that are rendered
    "A notebook as a page of the site."
    module, out = module_of(cells), []
    for cell in cells:
        if {'hide', 'default_exp'} & set(directives(cell)):
            continue
        if cell['cell_type'] != 'markdown':
            anchors = ''.join(mark(module, n.name) for n in definitions(cell))
            if anchors:
                out.append(markdown(raw(anchors), f'{cell.get("id", "")}-at'))
            out += settle(cell)
            continue
        source = joined(cell['source'])
        if not out:
            facts, source = front_matter(source)
            top = dict(cell_type='raw', id='front-matter', metadata=AttrDict(), source=fenced(facts))
            out.append(AttrDict(top))
        if source.strip():
            out.append(markdown(pictured(linked(source, path, where)), cell.get('id', '')))
    if any('class="ofa-page"' in c['source'] for c in out if c['cell_type'] == 'markdown'):
        out.append(markdown(raw(scripts(path)), 'scripts'))
    return out


def scripts(
    path: str,  # of a page, from the site's top
) -> str:  # HTML
    "What a page with figures that move loads."
    top = '../' * path.count('/')
    return ''.join(f'<script src="{top}assets/{name}"></script>' for name in ('plotly.min.js', 'pages.js'))


class Page:
    "The nbdev processor that makes a notebook a page."

    def __init__(self, nb):
        self.nb = nb

    def begin(self):
        path = Path(self.nb.path_).resolve()
        top = next(p for p in path.parents if (p / '_quarto.yml').exists())
        name = path.relative_to(top).as_posix()
        try:
            if name == 'index.ipynb':
                for cell in self.nb.cells:
                    cell['source'] = at_home(joined(cell['source']), top)
            self.nb.cells = page(self.nb.cells, name, homes(top))
        except ValueError as e:
            raise ValueError(f'{name}: {e}') from e


def comments(source: str) -> dict[int, str]:
    "The comment on each line of a program, by line number from 1."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip('# ') for t in tokens if t.type == tokenize.COMMENT}


def parameters(
    function: ast.AST,  # a function's syntax tree
    said: dict[int, str],  # of `comments`
) -> list[tuple[str, str, str]]:  # name, type, comment each; the result as `returns`
    "What goes into a function and what comes out."
    a = function.args
    every = [*a.posonlyargs, *a.args, *filter(None, [a.vararg]), *a.kwonlyargs, *filter(None, [a.kwarg])]
    lines = [p.lineno for p in every]
    rows = []
    for p in every:
        if p.arg == 'self':
            continue
        kind = ast.unparse(p.annotation) if p.annotation else ''
        alone = lines.count(p.lineno) == 1  # one comment beside two parameters is neither's
        rows.append((p.arg, kind, said.get(p.lineno, '') if alone else ''))
    result = function.returns
    if result and said.get(result.lineno) and result.lineno not in lines:
        rows.append(('returns', ast.unparse(result), said[result.lineno]))
    return rows


def methods_of(node: ast.ClassDef) -> list[ast.FunctionDef]:
    return [f for f in node.body if isinstance(f, ast.FunctionDef)]


def init_of(node: ast.ClassDef) -> ast.FunctionDef | None:
    return next((f for f in methods_of(node) if f.name == '__init__'), None)


def signature(node: ast.AST) -> str:
    "How a function or class is called, as code."
    if isinstance(node, ast.ClassDef):
        init = init_of(node)
        inside = ast.unparse(init.args).removeprefix('self').removeprefix(', ') if init else ''
        return f'class {node.name}({inside})'
    result = f' -> {ast.unparse(node.returns)}' if node.returns else ''
    return f'{node.name}({ast.unparse(node.args)}){result}'


SECTIONS = ('Args', 'Returns', 'Raises', 'Example', 'Source')


def sections(docstring: str) -> tuple[str, dict[str, str]]:
    "What a docstring says first, and the text of each section that it has (Google's style)."
    lead, *rest = re.split(rf'^({"|".join(SECTIONS)}):\n', inspect.cleandoc(docstring), flags=re.M)
    return lead.strip(), {title: textwrap.dedent(text).strip() for title, text in zip(rest[::2], rest[1::2])}


def items(section: str) -> dict[str, str]:
    "A section's `name: text` items; a text may go on in indented lines."
    found = re.findall(r'^\*{0,2}([\w., ]+): (.*(?:\n[ \t]+.*)*)', section, re.M)
    return {name: ' '.join(text.split()) for name, text in found}


def definition_list(rows: list[tuple[str, str, str]]) -> str:
    "Names, their types and what they are, as HTML; a row without text is left out."
    told = ''
    for name, kind, text in rows:
        if text:
            name, kind, text = map(html.escape, (name, kind, text))
            told += f'<dt><code>{name}</code> <span class="type">{kind}</span></dt><dd>{text}</dd>'
    return raw(f'<dl class="parameters">{told}</dl>') if told else ''


def entry(node: ast.AST, said: dict[int, str], module: str, lesson: str) -> str:
    "One function or class of the reference, as markdown."
    is_class = isinstance(node, ast.ClassDef)
    call = init_of(node) if is_class else node
    lead, more = sections(ast.get_docstring(node) or '')
    own = items(more.get('Args', ''))
    rows = parameters(call, said) if call else []
    rows = [(name, kind, own.get(name, text)) for name, kind, text in rows]
    rows += [('returns', '', ' '.join(more['Returns'].split()))] if 'Returns' in more else []
    rows += [(f'raises {name}', '', text) for name, text in items(more.get('Raises', '')).items()]
    shown = [f for f in methods_of(node) if f.name[0] != '_'] if is_class else []
    documented = [f'- `{f.name}`: {ast.get_docstring(f)}' for f in shown if ast.get_docstring(f)]
    parts = [
        f'## {node.name}',
        raw(mark(module, node.name)),
        f'```python\n{signature(node)}\n```',
        lead,
        definition_list(rows),
        f'```python\n{more["Example"]}\n```' if 'Example' in more else '',
        f'Source: {more["Source"]}' if 'Source' in more else '',
        '\n'.join(documented),
        f'[In the lesson](../{lesson}#{anchor(module, node.name)})',
    ]
    return '\n\n'.join(filter(None, parts))


def reference(
    cells: list[dict],  # of a lesson
    lesson: str,  # its file
    where: dict,  # of `homes`
) -> str:  # a page, as markdown with front matter; '' where the lesson exports no function
    "The reference page of one module."
    module = module_of(cells)
    entries = []
    for cell in cells:
        for node in definitions(cell):
            entries.append(entry(node, comments(joined(cell['source'])), module, lesson))
    if not entries:
        return ''
    facts, _ = front_matter(cells[0]['source'])
    parts = [
        fenced(dict(title=f'ofa_learn.{module}', description=facts['description'])),
        f'Defined, explained and tested in the lesson [{facts["title"]}](../{lesson}).',
        linked('\n\n'.join(entries), f'reference/{module}.qmd', where),
    ]
    return '\n\n'.join(parts) + '\n'


FOLDERS = {
    'Course': {'course': 'The path', 'methods': 'Methods'},
    'Package': {'running': 'Running', 'widgets': 'Figures and widgets', 'internals': 'Internals'},
}


def navigation(names: list[str]) -> list[dict]:
    """The site's parts, from the notebooks' paths.

    Each part is a dict: `title`, `page` (where it begins) and `sections`, a list of (title, pages). A folder
    of lessons is a section, its numbers are the order. A file that has no place is a `ValueError`.
    """
    left = set(names) - {'index.ipynb'}

    def inside(folder: str) -> list[str]:
        found = sorted(n for n in left if n.startswith(f'{folder}/'))
        left.difference_update(found)
        return found

    def lessons(part: str) -> list[tuple[str, list[str]]]:
        found = [(title, inside(folder)) for folder, title in FOLDERS[part].items()]
        return [section for section in found if section[1]]

    parts = [
        ('Course', 'course.qmd', lessons('Course')),
        ('Walkthroughs', 'walkthroughs/index.qmd', [('', inside('walkthroughs'))]),
        ('Package', 'package.qmd', lessons('Package')),
        ('Paper and more', 'pages/index.qmd', [('', inside('pages'))]),
    ]
    if left:
        raise ValueError(f'names: {sorted(left)} have no place in the site: move them to a folder of nbs/')
    parts = [p for p in parts if any(pages for _, pages in p[2])]
    parts.append(('Reference', 'reference/index.qmd', []))
    return [dict(title=title, page=page, sections=sections) for title, page, sections in parts]


def unshown(cells: list[dict]) -> list[str]:
    "What a page would lose: outputs that a renderer passes over, and errors."
    shown = {'text/plain', 'text/markdown'}
    out = []
    for i, cell in enumerate(cells):
        for o in cell.get('outputs') or []:
            kinds = set(o.get('data', {}))
            if o['output_type'] == 'error':
                out.append(f'cell {i}: an error is stored')
            elif o['output_type'] != 'stream' and (not kinds & shown or kinds - shown):
                out.append(f'cell {i}: {", ".join(sorted(kinds - shown)) or "nothing"}')
    return out


FORMULA = re.compile(
    r'<math[^>]*>((?:(?!</math>).)*?)<annotation encoding="application/x-tex">(.*?)</annotation>', re.S
)


def as_searched(markup: str) -> str:
    "The text of a piece of HTML as a pattern, whatever white space a search keeps of it."
    words = html.unescape(re.sub(r'<[^>]+>', '', markup)).split()
    return r'\s*'.join(map(re.escape, words))


def without_tex(
    found: list[dict],  # what a site's search looks through: href and text each
    pages: dict[str, str],  # {path from the site's top: its HTML}
) -> list[dict]:
    "The same without the TeX that pandoc keeps inside each formula: excerpts would hold formulas twice."

    def cleaned(entry):
        text = entry['text']
        for drawn, tex in set(FORMULA.findall(pages.get(entry['href'].partition('#')[0], ''))):
            text = re.sub(f'({as_searched(drawn)})\\s*{as_searched(tex)}', r'\1', text)
        return dict(entry, text=text)

    return [cleaned(entry) for entry in found]


class Links(HTMLParser):
    "The ids of a page, and what it refers to."

    def __init__(self, text: str):
        super().__init__()
        self.ids, self.targets = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if a.get('id'):
            self.ids.add(a['id'])
        self.targets += [a[k] for k in ('href', 'src') if a.get(k)]


def broken_links(
    pages: dict[str, str],  # {path from the site's top: its HTML}
    files: set[str],  # every file of the site
) -> list[str]:  # page → target
    "Links of a site's pages to pages, files or places that are not there."
    read = {path: Links(text) for path, text in pages.items()}
    out = []
    for path, page in read.items():
        for target in page.targets:
            if re.match(r'[a-z][a-z+.-]*:|//', target, re.I):
                continue  # another site, or data
            name, _, spot = target.partition('#')
            name = name.partition('?')[0]
            to = posixpath.normpath(posixpath.join(posixpath.dirname(path), name)) if name else path
            if to not in files or (spot and to in read and spot not in read[to].ids):
                out.append(f'{path} → {target}')
    return out
