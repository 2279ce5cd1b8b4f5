"""A scorer of headlines: what they tell, how long they are, and how hard their words.

Reads {"id": 7, "text": "…"} lines, and answers a batch at its end, which an empty line marks.
"""

import json
import re
import sys

FACTS = [r"\blibrary\b", r"\bnight|\bovernight\b|24 hours|around the clock", r"\bmay\b", r"\bstudents?\b"]


def scores(text: str) -> dict[str, float]:
    hard = [word for word in re.findall(r"[^\W\d_]+", text) if len(word) > 9]
    return {
        "facts": sum(bool(re.search(fact, text, re.IGNORECASE)) for fact in FACTS),
        "too_long": max(0, len(text) - 60),
        "hard_words": len(hard),
    }


batch = []
for line in sys.stdin:
    if line.strip():
        batch.append(json.loads(line))
        continue
    for item in batch:
        print(json.dumps({"id": item["id"], "scores": scores(item["text"])}))
    batch = []
    sys.stdout.flush()
