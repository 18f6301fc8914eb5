"""GPUs: how much memory they have, and how fast they compute."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace

from swiftalign.problems import SwiftalignError

GIB = 2**30


@dataclass(frozen=True)
class Card:
    """One GPU.

    Attributes:
        name: the maker's name, or the memory as text where only that is known.
        memory: memory in bytes.
        rate: bf16 operations per second that a large matrix product reaches; None where it is not known.
        bandwidth: bytes of memory that are read or written per second; None where it is not known.
        link: bytes per second that each of several such cards in one machine receives while all of them gather what is
            divided among them; None where it is not known.
        host: bytes per second from the machine's memory to the card; None where it is not known.
        flash4: whether it is of the Hopper generation, on which FlashAttention 4 was compared with torch (an H200).
        measured: whether the rates were measured by this toolkit, not taken from the maker's data sheet.
    """

    name: str
    memory: int
    rate: float | None = None
    bandwidth: float | None = None
    link: float | None = None
    host: float | None = None
    flash4: bool = False
    measured: bool = False


# Name -> GiB, dense bf16 TFLOP/s, TB/s of memory, GB/s of NVLink in both directions together and of PCIe in one, from
# NVIDIA's data sheets. A bridge between two cards is not counted as NVLink.
_SHEETS = {
    "H200": (140, 989, 4.8, 900, 64),
    "H100 PCIe": (80, 756, 2.0, 0, 64),
    "H100": (80, 989, 3.35, 900, 64),
    "H800": (80, 989, 3.35, 400, 64),
    "B200": (180, 2250, 8.0, 1800, 64),
    "A100 40GB": (40, 312, 1.55, 600, 32),
    "A100": (80, 312, 2.0, 600, 32),
    "A800": (80, 312, 2.0, 400, 32),
    "L40S": (45, 362, 0.86, 0, 32),
    "L40": (45, 181, 0.86, 0, 32),
    "RTX 6000 Ada": (48, 364, 0.96, 0, 32),
    "RTX PRO 6000": (96, 504, 1.79, 0, 64),
    "A6000": (48, 155, 0.77, 0, 32),
    "A40": (45, 150, 0.7, 0, 32),
    "A10": (23, 125, 0.6, 0, 32),
    "L4": (23, 121, 0.3, 0, 32),
    "RTX 5090": (32, 210, 1.79, 0, 64),
    "RTX 4090": (24, 165, 1.01, 0, 32),
    "RTX 3090": (24, 71, 0.94, 0, 32),
}
# Large products reach 0.8 of that rate, and copies 0.9 of that bandwidth, as measured on an H100; gathering reaches
# 330 GB/s over NVLink, as measured on H100s and H200s of one machine.
_OVER_NVLINK = 330 / 900
# Not measured: gathering over PCIe, through the machine's memory, and the share of PCIe that a copy from there reaches.
_OVER_PCIE, _FROM_HOST = 20e9, 0.78
_CARDS = {
    name: Card(
        name,
        memory * GIB,
        teraflops * 1e12 * 0.8,
        terabytes * 1e12 * 0.9,
        nvlink * 1e9 * _OVER_NVLINK or _OVER_PCIE,
        pcie * 1e9 * _FROM_HOST,
        flash4=name.startswith(("H100", "H200", "H800")),
    )
    for name, (memory, teraflops, terabytes, nvlink, pcie) in _SHEETS.items()
}
for _name, _rate, _bandwidth in (("H100", 798e12, 3.0e12), ("H200", 788e12, 4.3e12)):
    _CARDS[_name] = replace(_CARDS[_name], rate=_rate, bandwidth=_bandwidth, measured=True)


def several(text: str) -> tuple[int, str]:
    """How many cards a text means, and which.

    >>> several("4xH100"), several("8 * 80GiB"), several("H200")
    ((4, 'H100'), (8, '80GiB'), (1, 'H200'))
    """
    parts = re.fullmatch(r"([1-9][0-9]{0,4}) *[x*] *(.+)", text.strip(), re.IGNORECASE)
    return (int(parts[1]), parts[2]) if parts else (1, text)


def named_card(text: str) -> Card:
    """A card by its name, or by its memory alone.

    Raises:
        SwiftalignError: the text is neither a known card nor an amount of memory.

    >>> named_card("80GiB").memory // GIB
    80
    >>> named_card("h100").name
    'H100'
    """
    size = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *(Gi?B?)", text.strip(), re.IGNORECASE)
    if size:  # a card sold as 80 GB has 80 GiB
        return Card(f"{size[1]} GiB", int(float(size[1]) * GIB))
    letters = re.sub(r"\W", "", text).lower()
    for name, card in _CARDS.items():
        if re.sub(r"\W", "", name).lower() == letters:
            return card
    hint = f"give the card's memory, e.g. 80GiB, or one of {', '.join(_CARDS)}"
    raise SwiftalignError(f"--gpu {text}: no such card", hint)


@dataclass(frozen=True)
class VisibleCard:
    """A GPU that a process of this machine may use.

    Attributes:
        entry: what names it in CUDA_VISIBLE_DEVICES: its number or its UUID.
        number: its number, as nvidia-smi shows it; empty for a part of a GPU (MIG).
        card: None where nvidia-smi does not tell its memory, as of a part of a GPU.
    """

    entry: str
    number: str
    card: Card | None


def visible_cards() -> tuple[VisibleCard, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order; none if there is no GPU, or the driver doesn't answer.

    As in CUDA, the first entry that names no GPU hides all that follow it. The numbers are those of nvidia-smi, so a
    process that uses them needs ``CUDA_DEVICE_ORDER=PCI_BUS_ID``.

    References:
        CUDA programming guide, "CUDA environment variables".
    """
    query = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    cards: dict[str, tuple[str, Card | None]] = {}  # by UUID
    for line in answer.splitlines():
        number, _, rest = line.partition(",")
        uuid, _, rest = rest.partition(",")
        name, _, mebibytes = rest.rpartition(",")
        if not number.strip().isdecimal():
            continue
        card = None
        if mebibytes.strip().isdecimal():
            memory, words = int(mebibytes) * 2**20, set(re.split(r"[\s-]+", name.strip().upper()))
            known = next((card for key, card in _CARDS.items() if set(key.upper().split()) <= words), Card("", memory))
            card = replace(known, name=name.strip(), memory=memory)
        cards[uuid.strip()] = number.strip(), card
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return tuple(VisibleCard(number, number, card) for number, card in cards.values())
    found: list[VisibleCard] = []
    for entry in (part.strip() for part in given.split(",")):
        if entry.startswith("MIG-") and cards:
            found.append(VisibleCard(entry, "", None))
            continue
        named = [
            each for uuid, each in cards.items() if each[0] == entry or (entry[:4] == "GPU-" and uuid.startswith(entry))
        ]
        if len(named) != 1 or any(each.number == named[0][0] for each in found):
            break
        found.append(VisibleCard(entry, *named[0]))
    return tuple(found)


def present_card(cards: Sequence[VisibleCard]) -> Card | None:
    """The one of these GPUs with the least memory, which decides what fits; None where that is not known."""
    known = [each.card for each in cards if each.card]
    return min(known, key=lambda card: card.memory) if known and len(known) == len(cards) else None
