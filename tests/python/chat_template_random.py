"""Random expressions over the common context of chat_templates.py."""

import random

NAMES = ["s", "e", "sp", "uni", "lines", "html", "path", "num", "i", "neg", "z", "f", "tiny", "huge", "t", "no", "n", "l", "words", "mixed", "el", "d", "ed", "shadow",
         "nested", "people", "x"]
ATTRIBUTES = ["items", "keys", "values", "get", "name", "a", "x", "upper", "strip", "split", "count", "index", "copy", "nope", "type", "age"]
TESTS = ["defined", "undefined", "none", "string", "mapping", "sequence", "iterable", "number", "integer", "float", "boolean", "true", "false", "odd", "even", "lower", "upper",
         "callable", "escaped", "eq(A)", "ne(A)", "lt(A)", "gt(A)", "in(A)", "sameas(A)", "divisibleby(A)"]
FILTERS = ["upper", "lower", "title", "capitalize", "trim", "length", "first", "last", "list", "sort", "reverse", "join", "join(A)", "int", "float", "abs", "round", "round(1)",
           "string", "tojson", "tojson(indent=A)", "default(A)", "default(A, true)", "e", "safe", "unique|list", "sum", "min", "max", "replace(A, A)", "replace(A, A, 1)", "batch(2)|list",
           "slice(2)|list", "map('upper')|list", "map(attribute=A)|list", "select|list", "select('string')|list", "reject('none')|list", "selectattr(A)|list", "dictsort", "items|list",
           "groupby(A)", "indent", "indent(A)", "wordcount", "truncate(5)", "center(9)", "format(A)", "urlencode", "striptags", "forceescape", "xmlattr", "filesizeformat", "pprint", "sort(reverse=A)",
           "wordwrap(9)", "attr(A)", "map('string')|list", "list|tojson"]
METHODS = ["upper()", "lower()", "strip()", "strip(A)", "lstrip(A)", "rstrip()", "split()", "split(A)", "split(A, 1)", "rsplit(A, 1)", "splitlines()", "startswith(A)", "endswith(A)", "find(A)",
           "rfind(A)", "count(A)", "index(A)", "replace(A, A)", "join(A)", "title()", "capitalize()", "swapcase()", "partition(A)", "rpartition(A)", "removeprefix(A)", "removesuffix(A)",
           "zfill(9)", "center(9)", "ljust(9)", "rjust(9, A)", "items()", "keys()", "values()", "get(A)", "get(A, A)", "copy()", "isdigit()", "isalpha()", "isupper()", "istitle()", "isspace()",
           "items()|list", "keys()|list", "format(A)", "expandtabs()", "casefold()", "isalnum()", "isprintable()"]
LITERALS = ["0", "1", "2", "-1", "3.5", "1e16", "'a'", "'l'", "''", "' '", "'%s'", "'{}'", "'name'", "'x'", "','", "none", "true", "false", "[]", "[1, 'a']", "(1,)", "{}", "{'a': 1}", "'Ab c'",
            "\"it's\"", "'é\\n'"]
BINARY = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or"]


def expressions(number, seed):
    chance = random.Random(seed)

    def atom():
        return chance.choice(NAMES) if chance.random() < 0.65 else chance.choice(LITERALS)

    def fill(text):
        while "A" in text.replace("'Ab", ""):
            at = next(at for at, c in enumerate(text) if c == "A" and text[at - 1:at + 2] != "'Ab")
            text = text[:at] + atom().replace("A", "\0") + text[at + 1:]
        return text.replace("\0", "A")

    def make(depth):
        if depth == 0:
            return atom()
        kind = chance.random()
        inner = make(depth - 1)
        wrapped = inner if inner.replace("_", "").isalnum() else f"({inner})"
        if kind < 0.34:
            return f"{wrapped}|{fill(chance.choice(FILTERS))}"
        if kind < 0.52:
            return f"{wrapped}.{fill(chance.choice(METHODS))}"
        if kind < 0.60:
            return f"{wrapped} is {chance.choice(['', 'not '])}{fill(chance.choice(TESTS))}"
        if kind < 0.66:
            return f"{wrapped}.{chance.choice(ATTRIBUTES)}"
        if kind < 0.74:
            return f"{wrapped}[{chance.choice([atom(), '0', '-1', '1:', ':2', '::-1', '-2:', '1:3'])}]"
        if kind < 0.92:
            return f"{wrapped} {chance.choice(BINARY)} {make(depth - 1) if chance.random() < 0.4 else atom()}"
        if kind < 0.96:
            return f"{wrapped} if {atom()} else {atom()}"
        return chance.choice([f"[{inner}, {atom()}]", f"({inner},)", f"{{'k': {inner}}}", f"not {wrapped}", f"-{wrapped}"])

    return [make(chance.choice([1, 1, 2, 2, 2, 3])) for _ in range(number)]
