"""What the tests of a step share."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.WARNING, logger="layerselect")
    return lambda part: [record.getMessage() for record in caplog.records if part in record.getMessage()]
