"""The pages of these tests differ in their words, most of them, and share their figures."""

from tests.helpers.figures import drawn_anew, drawn_once

__all__ = ["drawn_anew", "drawn_once"]
