"""Mutations of files: of their bytes, of JSON and YAML values, of lines of text, and of safetensors headers.

Everything is drawn from the random generator that is given, so that a number repeats a case.
"""

from __future__ import annotations

import copy
import io
import json
import math
import pickle
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import torch
import yaml

from corruptions.damaged_files import Planted

Mutate = Callable[[bytes, Random], bytes]
Path = tuple[str | int, ...]

# -- Bytes

JUNK = (b"[" * 20_000, b'{"a":' * 20_000, b"9" * 5_000, b"1e999", b"-1", b"null", b"18446744073709551615", b'"\\ud800"')
JUNK += (b"true", b"[]", b"{}", b'"\\u001b[2J"', b"NaN", b"0.5", b"\xff\xfe", b"\0" * 9)


def flip(data: bytearray, rng: Random) -> None:
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def cut(data: bytearray, rng: Random) -> None:
    del data[rng.randrange(len(data)) :]


def splice(data: bytearray, rng: Random) -> None:
    start, place = rng.randrange(len(data)), rng.randrange(len(data))
    data[place : place + rng.randint(0, 40)] = data[start : start + rng.randint(1, 400)]


def junk(data: bytearray, rng: Random) -> None:
    place = rng.randrange(len(data))
    data[place : place + rng.randint(0, 6)] = rng.choice(JUNK)


def value(data: bytearray, rng: Random) -> None:
    """Put junk in the place of a JSON value: behind a colon, up to the next comma or bracket."""
    colons = [place for place, sign in enumerate(data) if sign == ord(":")]
    if colons:
        start = rng.choice(colons) + 1
        end = min((e for e in (data.find(sign, start) for sign in b",}") if e >= 0), default=len(data))
        data[start:end] = rng.choice(JUNK)


def in_bytes(data: bytes, rng: Random) -> bytes:
    """One to three mutations."""
    held = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if held:
            rng.choice((flip, cut, splice, junk, value))(held, rng)
    return bytes(held)


# -- Values, as JSON and YAML have them

NUMBERS = (0, 1, -1, 2, 7, 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), 2**31, 2**48, 2**63, 2**64, 10**400)
TEXTS = (
    "",
    " ",
    "x",
    "a.b",
    "../secret.safetensors",
    "/etc/passwd",
    "~",
    ".",
    "a/b",
    "é",
    "\u202e",
    "\ud800",
    "\x1b[2J",
)
TEXTS += ("\0", "x" * 5000, "${HOME}", "$(touch x)", "*", "(a|a)*b", "(", "[", "null", "1e-4", "<image>", "<bbox>", "٣")
NESTED: Any = 0
for _ in range(100):
    NESTED = [NESTED]
OTHERS: tuple[Any, ...] = (
    None,
    True,
    False,
    [],
    {},
    [[]],
    [None],
    {"": {}},
    [{}],
    {"a": 1},
    ["x"],
    [1, 2, 3, 4],
    NESTED,
)


def anything(rng: Random) -> Any:
    """A value of any type."""
    return copy.copy(rng.choice(rng.choice((NUMBERS, TEXTS, OTHERS))))


def places(held: Any, path: Path = ()) -> Iterator[Path]:
    """The paths to everything inside nested mappings and lists."""
    for key, item in held.items() if isinstance(held, dict) else enumerate(held) if isinstance(held, list) else ():
        yield (*path, key)
        yield from places(item, (*path, key))


def within(held: Any, path: Path) -> Any:
    for key in path:
        held = held[key]
    return held


def misspelt(key: str, rng: Random) -> str:
    """A key with a letter left out, doubled, exchanged with the next, or in another case."""
    place = rng.randrange(max(len(key) - 1, 1))
    found = rng.choice(
        [
            key[:place] + key[place + 1 :],
            key[:place] + key[place : place + 1] + key[place:],
            key[:place] + key[place + 1 : place + 2] + key[place : place + 1] + key[place + 2 :],
            key.swapcase(),
            key.replace("_", "-"),
        ]
    )
    return found if found != key else f"{key}s"


def in_value(held: Any, rng: Random) -> Any:
    """Change one thing at any depth: replace it, remove it, rename its key, move it, wrap it, or repeat it."""
    found = list(places(held))
    if not found:
        return anything(rng)
    path = rng.choice(found)
    inside, key = within(held, path[:-1]), path[-1]
    old = inside[key]
    match rng.randrange(9):
        case 0:
            inside[key] = anything(rng)
        case 1:
            inside[key] = rng.choice((*NUMBERS[:6], True, False, "x", "auto", old))
        case 2:
            del inside[key]
        case 3 if isinstance(inside, dict):
            inside[misspelt(str(key), rng)] = inside.pop(key)
        case 3:
            inside.insert(key, copy.deepcopy(old))
        case 4:  # to where something else is
            other = rng.choice(found)
            target, at = within(held, other[:-1]), other[-1]
            target[at] = copy.deepcopy(old)
        case 5:
            inside[key] = rng.choice(([old], {"a": old}, [old, old], str(old)))
        case 6 | 7 if isinstance(old, int | float) and not isinstance(old, bool):
            inside[key] = rng.choice((-old, old + 1, str(old), old * 0.5 if abs(old) < 1e300 else 0, old * 1000))
        case 6 | 7 if isinstance(old, str):
            inside[key] = rng.choice((old + rng.choice(TEXTS), old[1:], old.upper(), rng.choice(TEXTS) + old))
        case _ if isinstance(inside, dict):
            inside[str(rng.choice(TEXTS))] = anything(rng)
        case _:
            inside.append(anything(rng))
    return held


def in_json(data: bytes, rng: Random) -> bytes:
    """A mutation of a JSON file's values, or of its bytes."""
    if rng.random() < 0.4:
        return in_bytes(data, rng)
    held = json.loads(data)
    for _ in range(rng.choice((1, 1, 2))):
        held = in_value(held, rng)
    text = json.dumps(held, ensure_ascii=rng.random() < 0.7).encode(errors="surrogatepass")
    if rng.random() < 0.05 and b'": ' in text:  # a key that is given twice
        quote = text.rindex(b'"', 0, text.index(b'": '))
        end = text.index(b'": ') + 2
        text = text[:quote] + text[quote:end] + b" null, " + text[quote:]
    return text


def in_lines(data: bytes, rng: Random) -> bytes:
    """A mutation of a file of JSON lines: of a line's value, of its bytes, or of the order and number of lines."""
    lines = data.splitlines(keepends=True)
    if not lines or rng.random() < 0.1:
        return in_bytes(data, rng)
    place = rng.randrange(len(lines))
    match rng.randrange(6):
        case 0:
            del lines[place]
        case 1:
            lines.insert(place, lines[rng.randrange(len(lines))])
        case 2:
            lines[place] = lines[place].rstrip(b"\n") + b" "
        case _:
            lines[place] = in_json(lines[place], rng).replace(b"\n", b" ") + b"\n"
    return b"".join(lines)


# -- YAML

# What a line of a configuration may become: tags that build objects, aliases, merge keys, tabs, documents, bombs.
YAML_LINES = (
    '!!python/object/apply:os.system ["touch PLANTED"]',
    'x: !!python/object/new:subprocess.Popen [["touch", "PLANTED"]]',
    "a: &a [*a]",
    "a: &a {b: *a}",
    "b: *nothing",
    "<<: {tuner: {lora_rank: 4}}",
    "\t- x",
    "---",
    "...",
    "%YAML 1.1",
    "? [a, b]\n: c",
    "? {a: b}\n: c",
    "extends: config.yaml",
    "extends: [other.yaml, config.yaml]",
    "extends: missing.yaml",
    "extends: ../secret.safetensors",
    "model: ${HOME}",
    "model: {path: x, type: !!str y, trust_remote_code: true}",
    "tuner: {lora_rank: 0x1F}",
    "training: {learning_rate: 1e999}",
    "swift: {external_plugins: [plugin.py]}",
    "\ufeffmodel: x",
    "é: ü",
    "x: " + "[" * 300,
    "x: " + "{a: " * 80,
    'x: "\\x1b[2J"',
    "- - - - a",
    "a: &x [1,1,1,1,1,1,1,1,1]\nb: &y [*x,*x,*x,*x,*x,*x,*x,*x]\nc: &z [*y,*y,*y,*y,*y,*y,*y,*y]\n"
    "d: &w [*z,*z,*z,*z,*z,*z,*z,*z]\ne: &v [*w,*w,*w,*w,*w,*w,*w,*w]",
)


def in_text(text: str, rng: Random) -> str:
    """A mutation of the lines of a YAML file."""
    lines = text.splitlines()
    place = rng.randrange(len(lines)) if lines else 0
    match rng.randrange(8):
        case 0 if lines:
            del lines[place]
        case 1 if lines:
            lines.insert(place, rng.choice(lines))
        case 2 if lines:
            lines[place] = rng.choice((" ", "  ", "\t", "- ", "")) + lines[place].lstrip(rng.choice((" ", "")))
        case 3 if lines and ":" in lines[place]:
            key, _, rest = lines[place].partition(":")
            lines[place] = rng.choice(
                (f"{misspelt(key, rng)}:{rest}", f"{key}:", f"{key}: {rng.choice(TEXTS)}", f"{key}{rest}")
            )
        case 4 if lines and ":" in lines[place]:
            key, _, rest = lines[place].partition(":")
            lines[place] = f"{key}: &a{rest}\n{key.replace(key.strip(), 'copy')}: *a"
        case 5 if lines:
            other = rng.randrange(len(lines))
            lines[place], lines[other] = lines[other], lines[place]
        case _:
            lines.insert(place, rng.choice(YAML_LINES))
    return "\n".join(lines) + "\n"


def in_yaml(data: bytes, rng: Random) -> bytes:
    """A mutation of a YAML file's values, of its lines or of its bytes."""
    kind = rng.random()
    if kind < 0.1:
        return in_bytes(data, rng)
    if kind < 0.35:
        text = data.decode()
        for _ in range(rng.choice((1, 1, 1, 2))):
            text = in_text(text, rng)
        return text.encode(errors="surrogatepass")
    held = yaml.safe_load(data)
    for _ in range(rng.choice((1, 1, 1, 2))):
        held = in_value(held, rng)
    return json.dumps(held, ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass")  # JSON is YAML


# -- Weight files


def in_entries(header: bytes, rng: Random) -> bytes:
    """A safetensors header that is well formed, in which tensors are somewhere else, or something else."""
    held = json.loads(header)
    one, other = rng.sample([name for name in held if name != "__metadata__"], 2)
    entry = held[one]
    match rng.randrange(8):
        case 0:
            held[one] = held[other]
        case 1:
            held[one], held[other] = held[other], held[one]
        case 2:
            for each in (one, other)[: rng.randint(1, 2)]:
                by = rng.choice((-4, 4, 8, 10**6))
                held[each]["data_offsets"] = [offset + by for offset in held[each]["data_offsets"]]
        case 3:
            del held[one]
        case 4:
            held[rng.choice((misspelt(one, rng), f"model.{one}", one.removeprefix("base_model.")))] = held.pop(one)
        case 5:
            entry["shape"] = rng.choice((entry["shape"][::-1], [*entry["shape"], 1], [math.prod(entry["shape"])]))
        case 6:
            entry["dtype"] = rng.choice(("I32", "U32", "F16", "BF16", "F64", "f32", "F8_E4M3"))
        case _:
            held["extra.weight"] = dict(entry)
    return json.dumps(held).encode()


def in_header(data: bytes, rng: Random) -> bytes:
    """Mutate a safetensors header and keep its length true, so that more than the length is looked at."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = (in_entries if rng.random() < 0.4 else in_json)(data[8:start], rng)
    return len(header).to_bytes(8, "little") + header + data[start:]


def in_index(data: bytes, rng: Random) -> bytes:
    """Mutate a shard index, often one of its file names alone."""
    if rng.random() < 0.5:
        return in_json(data, rng)
    held = json.loads(data)
    names = held["weight_map"]
    others = ("../secret.safetensors", "./../secret.safetensors", "/etc/passwd", "", ".", "x", "a\0b", "\x1b[2J")
    names[rng.choice(list(names))] = rng.choice((*others, *names.values()))
    return json.dumps(held).encode()


def in_weights(data: bytes, rng: Random) -> bytes:
    return (in_header if rng.random() < 0.7 else in_bytes)(data, rng)


def pickles() -> Iterator[bytes]:
    """State dicts in both of torch's formats, alone and beside what would create a file; and bare pickles of that."""
    sound = {"a.weight": torch.ones(2, 3), "b.weight": torch.ones(4, dtype=torch.bfloat16)}
    for zipped in (True, False):
        for held in (sound, sound, sound | {"c": Planted()}):
            buffer = io.BytesIO()
            torch.save(held, buffer, _use_new_zipfile_serialization=zipped)
            yield buffer.getvalue()
    for protocol in range(0, pickle.HIGHEST_PROTOCOL + 1, 2):
        yield pickle.dumps({"a": [Planted()]}, protocol=protocol)
