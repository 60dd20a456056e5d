"""Revision corpora: loaders, one schema, splits by document, and a description of what was found."""

from layerselect.data.load import load_corpus
from layerselect.data.schema import COLUMNS, SPLITS, Corpus, CorpusError, Defect

__all__ = ["COLUMNS", "SPLITS", "Corpus", "CorpusError", "Defect", "load_corpus"]
