"""The languages that solutions may be written in, by the name a problem uses. Another is one small file and a line."""

from __future__ import annotations

from openmimo.judge.languages.cpp import CPP
from openmimo.judge.languages.language import Language
from openmimo.judge.languages.python import PYTHON

LANGUAGES: dict[str, Language] = {language.name: language for language in (PYTHON, CPP)}
