"""What the tests of all tasks share."""

from tests.helpers.pages import no_pages, pages  # noqa: F401
