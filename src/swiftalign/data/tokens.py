"""How many tokens a row becomes: those of its images, and those of its text.

References:
    ms-swift's ``template/base.py``, and ``template/templates/qwen.py`` for the templates of Qwen3-VL, Qwen3.5 and
    Qwen2.5-VL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import is_normalized

from swiftalign.data.formats.swift import flat_text
from swiftalign.data.sizes import DEFAULT_LIMITS, PixelLimits, Size, visual_tokens
from swiftalign.model.family import PLAIN, Chat
from swiftalign.problems import ModelError


def read_tokenizer(path: Path) -> Any:
    """A model's ``tokenizer.json``, which neither cuts nor pads; it takes half a second.

    Raises:
        ModelError: it can't be read.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exceptions
        raise ModelError(f"tokenizer {path}: {error}", "copy the model's tokenizer.json again") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


class Conversation(NamedTuple):
    """A row before its text becomes tokens.

    Attributes:
        texts: question, answer, question, answer and so on; ms-swift tokenizes each by itself.
        image_tokens: number of tokens of the images beyond the one ``<|image_pad|>`` that each has in the texts.
    """

    texts: tuple[str, ...]
    image_tokens: int

    @property
    def most(self) -> int:
        """Upper bound of tokens: byte-level BPE gives at most one per byte of NFC, which at most triples the bytes."""
        return self.image_tokens + sum(
            len(text.encode()) * (1 if is_normalized("NFC", text) else 3) for text in self.texts
        )


def conversation(
    row: Mapping[str, Any],
    sizes: Sequence[Size],
    limits: PixelLimits = DEFAULT_LIMITS,
    system: str | None = None,
    chat: Chat = PLAIN,
) -> Conversation | None:
    """A row of ms-swift's layout as the template of its model writes it; None where that is not known here.

    Known are texts and images; not known are tools, videos, audio, and a loss set by the message.

    Args:
        row: a row without problems.
        sizes: width and height of each of the row's images, in pixels.
        limits: limits of the images' sizes.
        system: system message for rows without one, in place of the template's own.
        chat: what the template does beyond ChatML.

    Raises:
        DataError: as `model_size`.
    """
    system = chat.system if system is None else system
    messages: list[tuple[str, str]] = []
    for message in row["messages"]:
        role, text = message["role"], flat_text(message.get("content"))
        if text is None or not message.keys() <= {"role", "content"} or "<video>" in text or "<audio>" in text:
            return None
        if role == "system":
            system = text
        else:
            messages.append((role, text))
    missing = len(sizes) - sum(text.count("<image>") for text in [system or "", *(text for _, text in messages)])
    messages[0] = (messages[0][0], "<image>" * missing + messages[0][1])
    if chat.strips:
        system = system and system.strip()
        messages = [(role, _stripped(role, text)) for role, text in messages]
    turns: list[list[str]] = []  # role and text; ms-swift joins messages of one role
    for role, text in messages:
        if turns and turns[-1][0] == role:
            turns[-1][1] += text
        else:
            turns.append([role, text])
    if turns[0][0] == "assistant":
        turns.insert(0, ["user", ""])
    texts = [text for _, text in turns]
    others = any(row.get(key) for key in ("tools", "videos", "audios", "chat_template_kwargs", "add_eos"))
    in_order = [role for role, _ in turns] == ["user", "assistant"] * (len(turns) // 2)
    if others or not in_order or any("<image>" in answer for answer in texts[1::2]):
        return None
    head = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    for index in range(0, len(texts), 2):
        texts[index] = f"{head}<|im_start|>user\n{texts[index]}<|im_end|>\n<|im_start|>assistant\n"
        head = "<|im_end|>\n"
        if not texts[index + 1].startswith("<think>"):
            texts[index + 1] = chat.answer + texts[index + 1]
    vision = iter(["<|vision_start|><|image_pad|><|vision_end|>"] * len(sizes))
    texts = [re.sub("<image>", lambda tag: next(vision, tag[0]), text) for text in texts]
    if not texts[-1].endswith(("<|im_end|>", "<|endoftext|>")):
        texts[-1] += "<|im_end|>\n"
    return Conversation(tuple(texts), sum(visual_tokens(*size, limits) - 1 for size in sizes))


def _stripped(role: str, text: str) -> str:
    """A message without the white space around it, and an answer's reasoning on lines of its own."""
    text = text.strip()
    if role != "assistant" or "<think>" not in text or "</think>" not in text:
        return text
    before, _, after = text.partition("</think>")
    reasoning, answer = before.rpartition("<think>")[2].strip(), after.lstrip("\n")
    return f"<think>\n{reasoning}\n</think>\n\n{answer}"
