"""What the workers have in common: answers as JSON lines on standard output."""

import json
import os


def answers():
    """A function that writes one answer. Whatever a library prints goes to standard error, and does not come between."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**fields):
        out.write(json.dumps(fields) + "\n")
        out.flush()

    return answer
