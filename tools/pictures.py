"""A static picture beside every plotly figure that a notebook stores: GitHub shows nothing of plotly's own JSON."""
import base64, io, os, shutil
from contextlib import contextmanager

CHROMIUM_ARGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']
PLOTLY = 'application/vnd.plotly.v1+json'


def chromium() -> str | None:
    "Where Debian's or a user's Chromium is."
    return os.environ.get('CHROMIUM') or shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')


@contextmanager
def browser_page(**options):
    "A page of a headless Chromium."
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium(), args=CHROMIUM_ARGS)
        try: yield browser.new_page(**options)
        finally: browser.close()


def smaller(png: str) -> str:
    "A base64 PNG with a palette of at most 256 colours: about a third of the size, and no eye sees the difference in a chart."
    from PIL import Image
    out = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(png))).convert('RGB').quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(out, 'png', optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def add_pictures(nb) -> int:
    "Add a PNG to each plotly output of a notebook; returns how many."
    outputs = [o for c in nb.cells for o in c.get('outputs', []) if PLOTLY in o.get('data', {})]
    if not outputs: return 0
    if not chromium():
        print('  no Chromium: figures stay without a static picture')
        return 0
    from plotly.offline import get_plotlyjs
    with browser_page() as page:
        page.set_content('<html><body></body></html>')
        page.add_script_tag(content=get_plotlyjs())
        for o in outputs:
            fig = {k: o.data[PLOTLY][k] for k in ('data', 'layout')}
            size = dict(format='png', width=fig['layout'].get('width', 700), height=fig['layout'].get('height', 400))
            url = page.evaluate('([fig, size]) => Plotly.toImage(fig, size)', [fig, size])
            o.data['image/png'] = smaller(url.split(',', 1)[1]) + '\n'
    return len(outputs)
