"""Build ofa-learn from settings.ini, the one place for its name, version and requirements."""
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']

setup(name=cfg['repo'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'],
      long_description=(here/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
      author=cfg['author'], author_email=cfg['author_email'], license='Apache-2.0', url=cfg['git_url'],
      packages=find_packages(include=['ofa_learn', 'ofa_learn.*']), zip_safe=False,
      include_package_data=False,
      package_data={'ofa_learn': ['py.typed', 'static/*.js', 'static/*.css', 'static/*.json',
                                  'static/recipes/*.json', 'static/recorded/*.json']},
      python_requires=f">={cfg['min_python']}", install_requires=cfg['requirements'].split(),
      extras_require={extra: cfg[f'{extra}_requirements'].split() for extra in ('dev', 'bench', 'onnx')},
      entry_points={'console_scripts': cfg['console_scripts'].split()})
