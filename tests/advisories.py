"""Whether an advisory database answers: `python -m tests.advisories URL` ends with 0 if it does, else with 1 and words.

It answers as OSV does (https://google.github.io/osv.dev/post-v1-query/), and has to know of a flaw that is long known:
a proxy that answers everything with nothing would find every requirement sound.
"""

from __future__ import annotations

import json
import sys
from http.client import HTTPException
from urllib.request import Request, urlopen

KNOWN = {"package": {"name": "jinja2", "ecosystem": "PyPI"}, "version": "2.4.1"}
"""Has CVE-2014-1402, among others."""
SECONDS = 5.0


def answers(url: str) -> str:
    """Why the database at this address is of no use; empty if it is."""
    request = Request(url, json.dumps(KNOWN).encode(), {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=SECONDS) as answer:
            told = json.load(answer)
    except (OSError, HTTPException, ValueError) as error:
        return f"it does not answer: {error}"
    known = isinstance(told, dict) and told.get("vulns")
    return "" if known else "it knows of no flaw in jinja2 2.4.1, which has several"


if __name__ == "__main__":
    if why := answers(sys.argv[1]):
        print(f"no advisory database at {sys.argv[1]}: {why}", file=sys.stderr)
        sys.exit(1)
