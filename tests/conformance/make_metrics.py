"""Makes the fixtures of mils-eval with the official tools: pycocoevalcap 1.2 (PyPI), which holds the COCO caption evaluation,
METEOR 1.5 and Stanford's PTB tokenizer (Java 8 or later on the path; NumPy).

    python make_metrics.py PYCOCOEVALCAP COCO_DEMO OUT

PYCOCOEVALCAP is the package's folder, COCO_DEMO one with the `candidates.json` and `spice_input_refs.json` of COCO's
evaluation demo, and OUT crates/mils-eval/tests/fixtures. What is written there is the same every time.
"""

import gzip
import json
import math
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from fixtures import ptb_texts

PACKAGE, DEMO, OUT = (Path(a).resolve() for a in sys.argv[1:4])
sys.path.insert(0, str(PACKAGE.parent))

from pycocoevalcap.bleu.bleu import Bleu  # noqa: E402
from pycocoevalcap.cider.cider import Cider  # noqa: E402
from pycocoevalcap.rouge.rouge import Rouge  # noqa: E402
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer  # noqa: E402

# Function words of our own: the stages that need no data are tested without METEOR's list.
FUNCTION_WORDS = "a an and are at by for in is of on the to with".split()
MODES = {"full": [], "exact-stem": ["-m", "exact stem", "-w", "1.0 0.6", "-s", "FUNCTION_WORDS"]}



def tokenize(texts):
    """What the COCO tools make of texts. A word stands between any two: how a line ends can depend on the next one."""
    made = PTBTokenizer().tokenize({i: [{"caption": text}, {"caption": "x"}] for i, text in enumerate(texts)})
    assert all(made[i][1] == "x" for i in range(len(texts)))
    return [made[i][0] for i in range(len(texts))]


def meteor(items, arguments):
    """Statistics and scores of items by the jar, and the score of all."""
    def line(item):
        candidate = item["candidate"].replace("|||", "").replace("  ", " ")
        return " ||| ".join(["SCORE", *item["references"], candidate]) + "\n"

    def ask(text):
        command = ["java", "-Xmx4G", "-jar", PACKAGE / "meteor/meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"]
        with tempfile.NamedTemporaryFile("w") as words:
            words.write("\n".join(FUNCTION_WORDS) + "\n")
            words.flush()
            command += [words.name if a == "FUNCTION_WORDS" else a for a in arguments]
            return subprocess.run(command, input=text.encode(), stdout=subprocess.PIPE, check=True).stdout.decode().split("\n")

    stats = ask("".join(map(line, items)))[: len(items)]
    scores = [float(x) for x in ask("EVAL ||| " + " ||| ".join(stats) + "\n")[: len(items) + 1]]
    stats = [[float(x) for x in s.split()] for s in stats]
    assert len(scores) == len(items) + 1 and all(len(s) == 23 for s in stats)
    return stats, scores[:-1], scores[-1]


def plain_cider(items):
    """CIDEr as the paper first has it, without what makes it CIDEr-D; no package has it, so these are its formulas."""
    def grams(text):
        words = text.split()
        made = Counter(tuple(words[i : i + n]) for n in range(1, 5) for i in range(len(words) - n + 1))
        return [{g: c for g, c in made.items() if len(g) == n} for n in range(1, 5)]

    documents = Counter(g for item in items for g in {g for r in item["references"] for of in grams(r) for g in of})

    def weigh(counts):
        return {g: c * (math.log(len(items)) - math.log(max(1, documents[g]))) for g, c in counts.items()}

    def cosine(a, b):
        dot, norm = sum(w * b.get(g, 0) for g, w in a.items()), math.hypot(*a.values()) * math.hypot(*b.values())
        return dot / norm if norm else dot

    def score(item):
        candidate = list(map(weigh, grams(item["candidate"])))
        each = [sum(map(cosine, candidate, map(weigh, grams(r)))) / 4 for r in item["references"]]
        return 10 * sum(each) / len(each)

    return [score(item) for item in items]


def measure(name, items):
    """A set of items with what the official tools say."""
    gts = {i: item["references"] for i, item in enumerate(items)}
    res = {i: [item["candidate"]] for i, item in enumerate(items)}
    bleu, bleus = Bleu(4).compute_score(gts, res, verbose=0)
    rouge, rouges = Rouge().compute_score(gts, res)
    cider, ciders = Cider().compute_score(gts, res)
    corpus = {"bleu": bleu, "rouge_l": float(rouge), "cider_d": float(cider), "meteor": {}}
    plain = plain_cider(items)
    for i, item in enumerate(items):
        item["cider"] = plain[i]
        item["bleu"] = [b[i] for b in bleus]
        item["rouge_l"], item["cider_d"] = float(rouges[i]), float(ciders[i])
        item["meteor"] = {}
    for mode, arguments in MODES.items():
        stats, scores, all_of_them = meteor(items, arguments)
        corpus["meteor"][mode] = all_of_them
        for item, stat, score in zip(items, stats, scores):
            item["meteor"][mode] = [score, stat]
    return {"name": name, "corpus": corpus, "items": items}


def write(name, value):
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    with open(OUT / name, "wb") as file:
        file.write(gzip.compress(text.encode(), 9, mtime=0))


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    texts = ptb_texts.texts()
    write("ptb.json.gz", {"texts": texts, "words": tokenize(texts)})

    candidates = {c["image_id"]: c["caption"] for c in json.loads((DEMO / "candidates.json").read_text())}
    references = {r["image_id"]: r["refs"] for r in json.loads((DEMO / "spice_input_refs.json").read_text())}
    ids = sorted(references)
    words = dict(zip(ids, tokenize([candidates[i] for i in ids])))
    demo = [{"id": i, "candidate": words[i], "references": references[i]} for i in ids]
    # People's captions as candidates: their words vary more than a model's.
    people = [{"id": i, "candidate": references[i][0], "references": references[i][1:]} for i in ids if len(references[i]) > 1]
    # What seldom occurs: repeated words, single words, nothing at all, one reference, and words in disorder.
    rng = random.Random(8)
    odd = []
    for i in ids[:200]:
        said = words[i].split()
        rng.shuffle(said)
        kind = len(odd) % 6
        said = [said, said[:1], said + said, [], said[::-1], ["the"] * 5 + said][kind]
        odd.append({"id": i, "candidate": " ".join(said), "references": references[i][: 1 + kind % 3]})
    write("captions.json.gz", {"sets": [measure("demo", demo), measure("people", people), measure("odd", odd)], "function_words": FUNCTION_WORDS})


main()
