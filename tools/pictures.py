"""A static picture beside every plotly figure that a notebook stores: GitHub shows nothing of plotly's JSON.

usage: python tools/pictures.py

That makes the README's moving picture of the γ explorer, nbs/images/gamma_explorer.gif.
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


EXPLORER = Path(__file__).resolve().parent.parent / 'nbs' / 'images' / 'gamma_explorer.gif'


def film(
    shots: list[bytes],  # PNGs of one size
    stay: list[int],  # how long each is seen, in milliseconds
    path: Path,  # a .gif
    width: int = 880,
    colours: int = 256,
) -> Path:  # the file
    "Screenshots as a picture that moves, twice over, and then stands still."
    from PIL import Image

    frames = [Image.open(io.BytesIO(shot)).convert('RGB') for shot in shots]
    size = (width, round(frames[0].height * width / frames[0].width))
    frames = [f.resize(size, Image.Resampling.LANCZOS) for f in frames]
    # One palette for all, so that what stands still is stored once.
    palette = frames[len(frames) // 2].quantize(colours, Image.Quantize.MAXCOVERAGE)
    frames = [f.quantize(palette=palette, dither=Image.Dither.NONE) for f in frames]
    path.parent.mkdir(exist_ok=True)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=stay, loop=1, optimize=False)
    return path


def explorer_picture(path: Path = EXPLORER) -> Path:
    """The γ explorer's page while γ goes from 1 to 3, on the digit that its teacher doubts most.

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
    shots = []
    with tempfile.TemporaryDirectory() as folder, browser_page(viewport=dict(width=1240, height=900)) as page:
        written = GammaExplorer(cards, gamma=1.0).to_html(f'{folder}/explorer.html')
        page.goto(written.resolve().as_uri(), timeout=120_000)
        figure = page.locator('figure.ofa-page').first
        figure.locator('input[type=radio]').nth(doubted).check(force=True)
        # What they say is in the README's alternative text.
        page.add_style_tag(content='figcaption, .numbers { display: none }')
        slider = figure.locator('input[type=range]').first
        slider.focus()
        while True:
            page.wait_for_timeout(400)  # the figures' transition
            shots.append(figure.screenshot())
            if float(slider.input_value()) >= 3 - 1e-6:
                break
            for _ in range(round(0.2 / float(slider.get_attribute('step') or 1))):
                page.keyboard.press('ArrowRight')
    return film(shots, [1500] + [250] * (len(shots) - 2) + [4000], path)


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


if __name__ == '__main__':
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    made = explorer_picture()
    print(f'{made}: {made.stat().st_size / 1000:.0f} kB')
