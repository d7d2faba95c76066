"""The pages that are made from the code are what the code says."""

import pytest

from benchmarks.docs import DOCS, PAGES


@pytest.mark.parametrize("page", PAGES)
def test_a_page_that_is_made_from_the_code_is_up_to_date(page):
    assert (DOCS / page).read_text(encoding="utf-8") == PAGES[page](), "run python benchmarks/docs.py"


def test_every_page_can_be_reached_from_the_readme():
    """Directly or over other pages."""
    import re
    seen, waiting = set(), [DOCS.parent / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in seen:
            seen.add(page)
            waiting += [(page.parent / link).resolve() for link in re.findall(r"\]\(([^)#:]+\.md)", page.read_text(encoding="utf-8"))]
    assert {page.name for page in DOCS.glob("*.md")} <= {page.name for page in seen}
    assert all(page.is_file() for page in seen)
