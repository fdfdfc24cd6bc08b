"""Build ofa-learn from settings.ini, the one place for its name, version and requirements."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here / 'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']

setup(
    name=cfg['repo'],
    **{key: cfg[key] for key in ('version', 'description', 'keywords', 'author', 'author_email')},
    url=cfg['git_url'],
    license='Apache-2.0',
    long_description=(here / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    packages=find_packages(include=['ofa_learn', 'ofa_learn.*']),
    package_data={'ofa_learn': ['py.typed', 'static/*.js', 'static/*.css', 'static/**/*.json']},
    include_package_data=False,
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg['requirements'].split(),
    extras_require={
        extra: cfg[f'{extra}_requirements'].split() for extra in ('dev', 'bench', 'onnx', 'lite')
    },
    entry_points={'console_scripts': cfg['console_scripts'].split()},
)
