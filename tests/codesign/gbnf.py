"""A small matcher of llama.cpp's grammars: literals, rules, alternatives, groups, character classes, ``* + ?``.

Written for clearness: it follows every way of matching a prefix, as sets of end positions.
"""

import re

_TOKEN = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|(\[(?:[^\]\\]|\\.)*\])|([a-zA-Z][\w-]*)|([|()*+?]))')


def accepts(grammar, text):
    """Whether the whole text can be derived from ``root``."""
    rules = {}
    for line in grammar.splitlines():
        if line.strip():
            name, _, body = line.partition("::=")
            rules[name.strip()] = _alternatives(_tokens(body), rules)
    return len(text) in rules["root"](text, {0})


def _tokens(body):
    place, found = 0, []
    body = body.rstrip()
    while place < len(body):
        match = _TOKEN.match(body, place)
        assert match, f"not GBNF: {body[place:]!r}"
        found.append(match.group().strip())
        place = match.end()
    return found


def _alternatives(tokens, rules):
    parts = [[]]
    while tokens and tokens[0] != ")":
        token = tokens.pop(0)
        if token == "|":
            parts.append([])
        elif token in "*+?":
            parts[-1].append(_repeated(parts[-1].pop(), token))
        elif token == "(":
            parts[-1].append(_alternatives(tokens, rules))
            assert tokens.pop(0) == ")"
        else:
            parts[-1].append(_single(token, rules))

    def match(text, starts):
        ends = set()
        for sequence in parts:
            reached = starts
            for item in sequence:
                reached = item(text, reached)
            ends |= reached
        return ends

    return match


def _single(token, rules):
    if token.startswith('"'):
        literal = token[1:-1].encode().decode("unicode_escape")
        return lambda text, starts: {at + len(literal) for at in starts if text.startswith(literal, at)}
    if token.startswith("["):
        letters = re.compile(token)
        return lambda text, starts: {at + 1 for at in starts if letters.match(text, at)}
    return lambda text, starts: rules[token](text, starts)


def _repeated(item, sign):
    def match(text, starts):
        reached = set() if sign == "+" else set(starts)
        new = item(text, starts)
        while not new <= reached:
            reached |= new
            new = item(text, new) if sign != "?" else set()
        return reached

    return match
