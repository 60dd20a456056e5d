"""Revision corpora: loaders, one schema, splits by document, and a description of what was found."""

from .describe import Description, describe
from .formats import FORMATS
from .load import load_corpus
from .revisions import read_revisions
from .schema import COLUMNS, SPLITS, Corpus, CorpusError, Defect

__all__ = [
    "COLUMNS",
    "FORMATS",
    "SPLITS",
    "Corpus",
    "CorpusError",
    "Defect",
    "Description",
    "describe",
    "load_corpus",
    "read_revisions",
]
