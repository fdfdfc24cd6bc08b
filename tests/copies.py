"""A copy of the working tree, as it would be committed now."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOT = (
    '.git',
    '.venv',
    '__pycache__',
    '*.egg-info',
    '.ipynb_checkpoints',
    '.pytest_cache',
    '.hypothesis',
    '.ruff_cache',
    '.mypy_cache',
    'dist',
    'build',
    '_docs',
    '_proc',
    '.quarto',
    'nbdev.yml',
    'sidebar.yml',
    'demo.html',
    '.last_checked',
)


def copy_tree(to: Path) -> list[str]:
    "Copy what git knows or would add; without git, all but what .gitignore names. Returns the files' names."
    git = ['git', '-C', ROOT, 'ls-files', '-z', '--cached', '--others', '--exclude-standard']
    listed = subprocess.run(git, capture_output=True, text=True) if (ROOT / '.git').exists() else None
    if listed and listed.returncode == 0:
        for name in filter(None, listed.stdout.split('\0')):
            if not (ROOT / name).is_file():
                continue  # deleted, not committed yet
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    else:
        shutil.copytree(ROOT, to, ignore=shutil.ignore_patterns(*NOT), dirs_exist_ok=True)
    return sorted(p.relative_to(to).as_posix() for p in to.rglob('*') if p.is_file())
