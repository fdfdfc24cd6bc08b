"""What the tests in a browser share: whether there is one, and what goes wrong on a page."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'tools'))
from pictures import browser_page, chromium

LOCAL = ('file:', 'data:', 'blob:')


def missing():
    "What the tests in a browser lack here, in words; None where they run."
    if not chromium() or not os.path.exists(chromium()):
        return 'no Chromium on the PATH or in $CHROMIUM'
    return None if find_spec('playwright') else 'no playwright'


def need_browser():
    "Without a browser skip the test, or fail where OFA_LEARN_REQUIRE_BROWSER=1 asks for one."
    lacks = missing()
    if lacks is None:
        return
    if os.environ.get('OFA_LEARN_REQUIRE_BROWSER') == '1':
        pytest.fail(f'{lacks}, and OFA_LEARN_REQUIRE_BROWSER=1 asks for one')
    pytest.skip(f'{lacks}: the browser tests need one')


def one_browser():
    "For a fixture: one browser, open until the fixture ends."
    need_browser()
    with browser_page() as start:
        yield start.context.browser


def watch(page, own=LOCAL, harmless=(), kinds=('error', 'warning')):
    "A list that fills with what goes wrong on a page: errors, warnings, dialogs, requests to elsewhere."
    trouble = []

    def counts(said):
        return not any(text in said for text in harmless)

    def heard(message):
        if message.type in kinds and counts(message.text):
            trouble.append(f'console: {message.text}')

    def thrown(error):
        if counts(str(error)):
            trouble.append(f'page: {error}')

    def asked(dialog):
        trouble.append(f'dialog: {dialog.message}')
        dialog.dismiss()

    def requested(request):
        if not request.url.startswith(own):
            trouble.append(f'request: {request.url}')

    page.on('pageerror', thrown)
    page.on('console', heard)
    page.on('dialog', asked)
    page.on('request', requested)
    return trouble
