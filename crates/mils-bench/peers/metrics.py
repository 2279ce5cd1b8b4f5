"""A peer of the benchmark: pycocoevalcap, the COCO caption metrics in Python and Java.

Speaks JSON Lines as peer.py does. Started as `metrics.py pycocoevalcap THREADS`; it decides on threads itself. Times are
from texts in memory to scores: tokenizing, which is a Java program, is part of them.
"""

import contextlib
import importlib.metadata
import json
import os
import shutil
import sys
import time

from answers import answers


def score(candidates, references, meteor):
    """Seconds, and scores of all."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    res = {i: [{"caption": text}] for i, text in enumerate(candidates)}
    gts = {i: [{"caption": text} for text in texts] for i, texts in enumerate(references)}
    begin = time.perf_counter()
    tokenizer = PTBTokenizer()
    gts, res = tokenizer.tokenize(gts), tokenizer.tokenize(res)
    scores = {}
    if meteor:
        scores["meteor"] = Meteor().compute_score(gts, res)[0]
    else:
        for n, value in enumerate(Bleu(4).compute_score(gts, res, verbose=0)[0]):
            scores[f"bleu-{n + 1}"] = value
        scores["rouge-l"] = float(Rouge().compute_score(gts, res)[0])
        scores["cider"] = float(Cider().compute_score(gts, res)[0])
    return time.perf_counter() - begin, scores


def main():
    answer = answers()

    try:
        import pycocoevalcap
    except ImportError as error:
        answer(error=f"{error}; pip install pycocoevalcap")
        return
    if shutil.which("java") is None:
        answer(error="its tokenizer and METEOR are Java programs, and there is no java; install a JRE")
        return
    version = importlib.metadata.version("pycocoevalcap")
    answer(versions={"pycocoevalcap": version, "python": sys.version.split()[0]})
    texts = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            file = request["file"]
            if file not in texts:
                with open(file, encoding="utf-8") as lines:
                    texts[file] = json.load(lines)
            with contextlib.redirect_stdout(sys.stderr):
                runs = [
                    score(texts[file]["candidates"], texts[file]["references"], request["meteor"])
                    for _ in range(request["repeats"])
                ]
            folder = os.path.join(list(pycocoevalcap.__path__)[0], "meteor")
            answer(seconds=[seconds for seconds, _ in runs], scores=runs[-1][1], meteor=folder)
        except Exception as error:  # Whatever it is, the benchmark is to know.
            answer(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
