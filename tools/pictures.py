"""A static picture beside every plotly figure that a notebook stores: GitHub shows nothing of plotly's JSON.

usage: python tools/pictures.py

That makes the README's picture of the γ explorer, nbs/images/gamma_explorer.png.
"""

import base64
import io
import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

CHROMIUM_ARGS = [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
]
PLOTLY = 'application/vnd.plotly.v1+json'


def chromium() -> str | None:
    "Where Debian's or a user's Chromium is."
    if given := os.environ.get('CHROMIUM'):
        return given
    found = map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))
    return next(filter(None, found), None)


@contextmanager
def browser_page(**options):
    "A page of a headless Chromium."
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium(), args=CHROMIUM_ARGS)
        try:
            yield browser.new_page(**options)
        finally:
            browser.close()


def smaller(png: str, colours: int = 256) -> str:
    """A base64 PNG with a palette of at most so many colours.

    It has about a third of the size, and no eye sees the difference in a chart.
    """
    from PIL import Image

    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert('RGB')
    picture = picture.quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    out = io.BytesIO()
    picture.save(out, 'png', optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def add_pictures(nb) -> int:
    "Add a PNG to each plotly output of a notebook; returns how many."
    outputs = [o for c in nb.cells for o in c.get('outputs', []) if PLOTLY in o.get('data', {})]
    if not outputs:
        return 0
    if not chromium():
        print('  no Chromium: figures stay without a static picture')
        return 0
    from plotly.offline import get_plotlyjs

    with browser_page() as page:
        page.set_content('<html><body></body></html>')
        page.add_script_tag(content=get_plotlyjs())
        for o in outputs:
            fig = {k: o.data[PLOTLY][k] for k in ('data', 'layout')}
            layout = fig['layout']
            size = dict(format='png', width=layout.get('width', 700), height=layout.get('height', 400))
            url = page.evaluate('([fig, size]) => Plotly.toImage(fig, size)', [fig, size])
            o.data['image/png'] = smaller(url.split(',', 1)[1]) + '\n'
    return len(outputs)


EXPLORER = Path(__file__).resolve().parent.parent / 'nbs' / 'images' / 'gamma_explorer.png'


def explorer_picture(path: Path = EXPLORER) -> Path:
    """The γ explorer's page at γ = 2, on the digit that its teacher doubts most.

    The teacher has learned for six epochs.
    """
    import torch

    from ofa_learn.data import digits, split
    from ofa_learn.training import distill
    from ofa_learn.widgets import GammaExplorer, probs_of, teacher_cards

    torch.set_num_threads(1)
    data = split(digits(), train=300)
    run = distill(
        'labels', 'micro_resnet', None, data, epochs=6, lr=5e-3, device='cpu', progress=False, eval_every=6
    )
    cards = teacher_cards(run.model, data.test, data.norm)
    doubted = min(range(len(cards)), key=lambda i: abs(probs_of(cards[i])[cards[i]['label']] - 0.5))
    with tempfile.TemporaryDirectory() as folder, browser_page(viewport=dict(width=860, height=900)) as page:
        written = GammaExplorer(cards, gamma=2.0).to_html(f'{folder}/explorer.html')
        page.goto(written.resolve().as_uri(), timeout=120_000)
        figure = page.locator('figure.ofa-page').first
        figure.locator('input[type=radio]').nth(doubted).check(force=True)
        # What they say is in the README's alternative text.
        page.add_style_tag(content='figcaption, .numbers { display: none }')
        page.wait_for_timeout(500)  # the figures' transition
        png = figure.screenshot()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(base64.b64decode(smaller(base64.b64encode(png).decode(), 64)))
    return path


if __name__ == '__main__':
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    made = explorer_picture()
    print(f'{made}: {made.stat().st_size / 1000:.0f} kB')


def demo_picture(report: str | Path) -> Path:
    "The first figure of the page that `make demo` wrote, every run of every row, for the README."
    path = EXPLORER.parent / 'demo.png'
    with browser_page(viewport=dict(width=900, height=900)) as page:
        page.goto(Path(report).resolve().as_uri(), timeout=120_000)
        figure = page.locator('.js-plotly-plot').first
        figure.scroll_into_view_if_needed()
        page.wait_for_timeout(1000)
        png = figure.screenshot()
    path.write_bytes(base64.b64decode(smaller(base64.b64encode(png).decode(), 64)))
    return path
