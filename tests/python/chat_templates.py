"""What Jinja2 makes of chat templates, as transformers sets it up: the expectations that our layer over minijinja is held to.

    python chat_templates.py                      writes tests/golden/chat_templates.json
    python chat_templates.py --random N SEED      writes N random expressions with their renderings to standard output

The cases are in chat_template_expressions.txt (one expression a line, with the context below), chat_template_statements.py and
chat_template_families.py; all are our own words. A case is a template, a context, and what came: a text, or the class of the error. The
second form is for looking for differences by hand: `cargo test -p nvllm-engine --test text -- --ignored random_expressions` reads it.

Needs the packages transformers (5.24.0 recorded the file) and jinja2 (3.1.6).
"""

import argparse
import copy
import datetime
import json
import pathlib

import jinja2
import transformers
from transformers.utils import chat_template_utils

import chat_template_families
import chat_template_random
import chat_template_statements

HERE = pathlib.Path(__file__).parent
GOLDEN = HERE.parent / "golden" / "chat_templates.json"
# Seconds since 1970, in UTC: what `strftime_now` tells.
NOW = 1_750_000_000


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(NOW, datetime.timezone.utc)


CONTEXT = {
    "s": "Hello, World", "e": "", "sp": "  padded\t\n", "uni": "Grüße, Straße 東京 🙂", "lines": "one\ntwo\r\nthree\n\nfive\n",
    "html": "<b class=\"x\">1 & 2's</b>", "path": "a/b/c.tar.gz", "num": "42", "word": "word",
    "i": 7, "neg": -3, "z": 0, "big": 123456789012345678, "f": 2.5, "tiny": 1e-07, "huge": 1e16, "third": 1 / 3, "t": True, "no": False, "n": None,
    "l": [3, 1, 2], "words": ["pear", "Apple", "fig", "apple"], "mixed": [1, "a", None, 2.0, True, [1, 2], {"k": "v"}], "el": [],
    "d": {"b": 2, "a": 1, "C": 3}, "ed": {}, "shadow": {"items": {"type": "string"}, "keys": "K", "get": "G", "values": [1], "name": "N"},
    "nested": {"x": {"y": [{"z": "deep"}, {"z": 2}]}, "list": [1, 2]},
    "people": [{"name": "Ann", "age": 30, "tags": ["x"]}, {"name": "bob", "age": 25, "tags": []}, {"name": "Cid", "age": 30}],
    "schema": {"type": "object", "properties": {"q": {"type": "string", "enum": ["é", "b"]}, "n": {"type": ["integer", "null"], "default": 1.0}}},
    "tool": {"type": "function", "function": {"name": "look", "description": "Finds \"it\" <fast>\n", "parameters": {"required": ["q"]}}},
}


def render(template, context):
    try:
        # What every call of apply_chat_template passes.
        given = {"messages": [], "tools": None, "documents": None, "add_generation_prompt": False, **context}
        text = chat_template_utils._compile_jinja_template(template).render(**copy.deepcopy(given))  # filters can change a list
        text.encode("utf-8")
        return {"text": text}
    except Exception as error:  # noqa: BLE001 what fails is recorded
        return {"error": type(error).__name__}


def expressions():
    group = ""
    for line in (HERE / "chat_template_expressions.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            group = line[3:]
        elif line:
            yield group, "{{ " + line + " }}", "common"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--random", nargs=2, type=int, metavar=("N", "SEED"))
    arguments = parser.parse_args()
    chat_template_utils.datetime = Clock
    families, contexts = {}, {"common": CONTEXT}
    cases = [("random", "{{ " + text + " }}", "common") for text in chat_template_random.expressions(*(arguments.random or (0, 0)))]
    if not arguments.random:
        families = chat_template_families.TEMPLATES
        contexts.update(chat_template_statements.CONTEXTS, **chat_template_families.contexts())
        cases = list(expressions()) + chat_template_statements.CASES
        cases += [("family", family, context) for family in families for context in chat_template_families.contexts()]
    recorded = []
    for group, template, context in cases:
        case = {"group": group, "template": template, "context": context, **render(families.get(template, template), contexts[context])}
        if " at 0x" not in case.get("text", ""):
            recorded.append(json.dumps(case, ensure_ascii=False))
    head = {
        "recorded_with": {"transformers": transformers.__version__, "jinja2": jinja2.__version__},
        "now": NOW,
        "families": families,
        "contexts": contexts,
    }
    text = json.dumps(head, ensure_ascii=False)[:-1] + ', "cases": [\n' + ",\n".join(recorded) + "\n]}\n"
    if arguments.random:
        print(text, end="")
    else:
        GOLDEN.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
