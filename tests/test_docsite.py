"""Notebooks as pages: the pure functions of tools/docsite.py, on cells of a few lines."""

import ast
import json

import docsite
import pytest
from docsite import PAGE_VERSION, PLOTLY, broken_links, linked, navigation, unshown

BARS = {
    PLOTLY: dict(data=[dict(type='bar', y=[1, 2])], layout=dict(width=900, meta=dict(caption='Two bars.'))),
    'image/png': 'iVBOR',
}
TINY = dict(
    cell_type='code',
    id='a',
    source='#| export\nfig',
    metadata={},
    outputs=[dict(output_type='stream', text='0.5\n'), dict(output_type='display_data', data=BARS)],
)
WHERE = dict(ofa_loss=('course/40_losses.ipynb', 'losses'))


def test_directives_stand_in_the_source_or_are_taken_off_by_nbdev():
    found = docsite.directives(dict(source='#| export\n#| fig-alt: two curves\nx = 1'))
    assert found == {'export': '', 'fig-alt': 'two curves'}
    assert docsite.directives(dict(source='x = 1', directives_={'export': []})) == {'export': ''}
    assert docsite.joined(['a\n', 'b']) == 'a\nb'


def test_a_figure_is_drawn_before_its_picture_is_shown():
    drawn = docsite.as_html(BARS)
    assert 'data-page="plot"' in drawn and 'Two bars.' in drawn
    assert '900' not in drawn  # as wide as the page
    assert docsite.as_html(BARS | {PAGE_VERSION: '<figure>alive</figure>'}) == '<figure>alive</figure>'
    assert docsite.as_html({'text/plain': '0.5'}) is None


def test_a_picture_needs_words():
    shown = docsite.as_html({'image/png': 'iV\nBOR\n'}, 'a "3"')
    assert shown == '<p class="picture"><img src="data:image/png;base64,iVBOR" alt="a &quot;3&quot;"></p>'
    with pytest.raises(ValueError, match='fig-alt: expected a line'):
        docsite.as_html({'image/png': 'iVBOR'})


def test_a_cell_with_text_and_a_figure_becomes_two():
    code, figure = docsite.settle(TINY)
    assert (code.source, code.outputs) == ('fig', [dict(output_type='stream', text='0.5\n')])
    assert (figure.cell_type, figure.source[:10]) == ('markdown', '```{=html}')
    assert docsite.raw('<p>\n\n\n</p>') == '```{=html}\n<p>\n</p>\n```'


def test_options_for_the_renderer_stay_and_others_are_refused():
    cell = dict(TINY, source='#| export\n#| code-fold: true\n#| fig-alt: two bars\nfig', outputs=[])
    assert docsite.settle(cell)[0].source == '#| code-fold: true\nfig'
    plumbing = dict(
        TINY, source='#| export\nx = 1', metadata=dict(jupyter=dict(source_hidden=True)), outputs=[]
    )
    assert docsite.settle(plumbing)[0].source == '#| code-fold: true\nx = 1'
    with pytest.raises(ValueError, match='code-folded: expected one of echo, code-fold'):
        docsite.settle(dict(cell, source='#| code-folded: true\nfig'))


def test_what_is_to_be_predicted_is_folded():
    code, result = docsite.settle(dict(TINY, metadata=dict(jupyter=dict(outputs_hidden=True))))
    assert code.outputs == []
    parts = result.source.split('\n\n')
    assert '<details class="result">' in parts[0] and '<pre>0.5&#10;</pre>' in parts[1]
    assert 'data-page="plot"' in parts[2] and '</details>' in parts[3]


def test_a_computed_table_stands_as_a_written_one():
    table = dict(output_type='display_data', data={'text/markdown': '| a |\n|---|\n| 1 |'})
    code, written = docsite.settle(dict(TINY, outputs=[table]))
    assert code.outputs == [] and written.source == '| a |\n|---|\n| 1 |'


def test_a_picture_that_is_a_paragraph_keeps_its_words():
    made = docsite.pictured('Text.\n\n![a "slider"](images/x.png)\n')
    assert '<img src="images/x.png" alt="a &quot;slider&quot;">' in made and 'Text.' in made


def test_the_first_page_has_the_explorer_and_a_button(tmp_path):
    (tmp_path / 'walkthroughs').mkdir()
    widget = dict(outputs=[dict(output_type='display_data', data={PAGE_VERSION: '<figure>alive</figure>'})])
    (tmp_path / docsite.TOUR).write_text(json.dumps(dict(cells=[widget])))
    source = f'A.\n\n![words]({docsite.HOME_PICTURE})\n\n`CONTRIBUTING.md` has the rest.'
    made = docsite.at_home(source, tmp_path)
    assert '<figure>alive</figure>' in made and 'href="lite/start.html"' in made and 'images/' not in made
    assert '[`CONTRIBUTING.md`](contributing.qmd)' in made
    with pytest.raises(ValueError, match='expected a widget with a stored page version, got none'):
        docsite.first_widget([dict(outputs=[])])


def test_a_search_finds_each_formula_once():
    page = (
        '<math display="inline"><semantics><msup><mi>p</mi><mi>t</mi></msup>'
        '<annotation encoding="application/x-tex">p^t</annotation></semantics></math> and <math>'
        '<semantics><mi>γ</mi><annotation encoding="application/x-tex">γ</annotation></semantics></math>'
    )
    found = [dict(href='a.html#top', text='With ptp^t and γγ.'), dict(href='b.html', text='γγ')]
    cleaned = docsite.without_tex(found, {'a.html': page})
    assert [entry['text'] for entry in cleaned] == ['With pt and γ.', 'γγ']


def test_front_matter():
    "The list item with a colon is there on purpose: nbdev reads such items as settings of the page."
    facts, rest = docsite.front_matter(
        '# Losses: "hard" and soft\n\n> What a label counts.\n\nText.\n\n- **note**: kept'
    )
    assert facts == dict(title='Losses: "hard" and soft', description='What a label counts.')
    assert rest == 'Text.\n\n- **note**: kept'
    with pytest.raises(ValueError, match='expected a line "# title"'):
        docsite.front_matter('Text.')


@pytest.mark.parametrize(
    'text, page, expected',
    [
        ('`ofa_loss`', 'index.ipynb', '[`ofa_loss`](course/40_losses.ipynb#ofa_learn.losses.ofa_loss)'),
        (
            '`ofa_loss()`',
            'walkthroughs/10_slide.ipynb',
            '[`ofa_loss()`](../course/40_losses.ipynb#ofa_learn.losses.ofa_loss)',
        ),
        ('`ofa_loss`', 'course/40_losses.ipynb', '`ofa_loss`'),
    ],
)
def test_names_lead_to_their_definitions(text, page, expected):
    assert linked(text, page, WHERE) == expected


@pytest.mark.parametrize(
    'text',
    [
        '`x`',
        '[see `ofa_loss`](x.ipynb)',
        '[`ofa_loss`](x.ipynb)',
        '```\n`ofa_loss`\n```',
        '``ofa_loss``',
    ],
)
def test_other_text_stays(text):
    assert linked(text, 'index.ipynb', WHERE) == text


def made():
    lesson = [
        dict(cell_type='markdown', source='# Tiny\n\n> A lesson.\n\nSee `ofa_loss`.'),
        dict(cell_type='code', source='#| default_exp tiny', outputs=[]),
        dict(cell_type='code', source='#| export\ndef double(x): return 2*x', outputs=[]),
        TINY,
    ]
    return docsite.page(lesson, 'course/tiny.ipynb', WHERE)


def test_a_whole_page():
    cells = made()
    kinds = ['raw', 'markdown', 'markdown', 'code', 'code', 'markdown', 'markdown']
    assert [c.cell_type for c in cells] == kinds
    assert 'id="ofa_learn.tiny.double"' in cells[2].source
    assert '../assets/pages.js' in cells[-1].source


EXAMPLE = '''def scaled(
    x: float,        # a number
    by: float = 2.,  # how much
) -> float:          # the product
    "x times `by`."
    return x*by
'''


def test_the_reference_is_read_off_the_code():
    node = ast.parse(EXAMPLE).body[0]
    said = docsite.comments(EXAMPLE)
    assert docsite.parameters(node, said) == [
        ('x', 'float', 'a number'),
        ('by', 'float', 'how much'),
        ('returns', 'float', 'the product'),
    ]
    assert docsite.signature(node) == 'scaled(x: float, by: float=2.0) -> float'
    text = docsite.entry(node, said, 'tiny', 'course/05_tiny.ipynb')
    assert text.startswith('## scaled') and 'x times `by`.' in text and 'the product' in text


def test_navigation_follows_the_folders():
    names = ['index.ipynb', 'course/40_losses.ipynb', 'walkthroughs/10_slide.ipynb', 'running/80_x.ipynb']
    parts = navigation(names)
    assert [p['title'] for p in parts] == ['Course', 'Walkthroughs', 'Package', 'Reference']
    assert parts[0]['sections'] == [('The path', ['course/40_losses.ipynb'])]
    assert parts[2]['sections'] == [('Running', ['running/80_x.ipynb'])]
    with pytest.raises(ValueError, match=r"\['drafts/x.ipynb'\] have no place"):
        navigation(['drafts/x.ipynb'])


def test_what_a_reader_would_not_see_is_found():
    outputs = [dict(output_type='display_data', data=BARS), dict(output_type='stream', text='')]
    assert unshown([dict(outputs=outputs)]) == [f'cell 0: {PLOTLY}, image/png']
    assert unshown(made()) == []
    site = {
        'index.html': '<a href="a/b.html#here">b</a><a href="#top">up</a><a href="https://example.org">away</a>',
        'a/b.html': '<p id="here"><img src="../no.png"></p><a href="../index.html">home</a>',
    }
    assert broken_links(site, set(site)) == ['index.html → #top', 'a/b.html → ../no.png']


WITH_SECTIONS = '''def half(x: float) -> float:
    """Half of `x`.

    Args:
        x: a number,
            in metres.
    Returns:
        A number.
    Raises:
        ValueError: `x` is negative.
    Example:
        >>> half(4)
        2.0
    """
    return x/2
'''


def test_sections_of_a_docstring_are_shown():
    node = ast.parse(WITH_SECTIONS).body[0]
    lead, more = docsite.sections(ast.get_docstring(node))
    assert lead == 'Half of `x`.' and list(more) == ['Args', 'Returns', 'Raises', 'Example']
    assert docsite.items(more['Args']) == {'x': 'a number, in metres.'}
    text = docsite.entry(node, {}, 'tiny', 'course/05_tiny.ipynb')
    for part in ('a number, in metres.', 'raises ValueError', '>>> half(4)\n2.0', 'A number.'):
        assert part in text
    assert 'Args:' not in text
