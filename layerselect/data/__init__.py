"""Revision corpora: loaders, one schema, splits by document, and a description of what was found."""

from layerselect.data.describe import Description, describe
from layerselect.data.formats import FORMATS
from layerselect.data.load import load_corpus
from layerselect.data.revisions import read_revisions
from layerselect.data.schema import COLUMNS, SPLITS, Corpus, CorpusError, Defect

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
