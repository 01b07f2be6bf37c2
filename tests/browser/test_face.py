"""What a page complains of would be noticed."""

import pytest

from tests.browser.visitor import visiting
from tests.redis_process import become

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="session"),
]

ERROR = "console.error('not well')"
THROWN = "setTimeout(() => { throw new Error('not well') })"


@pytest.mark.parametrize("complaint", [ERROR, THROWN])
async def test_what_a_page_complains_of_is_noticed(browser, url, complaint):
    async with visiting(browser, url, "/healthz") as person:
        person.forgive("favicon.ico")  # of a page without one
        await person.page.evaluate(complaint)
        await become(lambda: any("not well" in each for each in person.problems))
        with pytest.raises(AssertionError, match="not well"):
            person.content()
        person.forgive("not well")
