"""On the real vocabulary of Qwen3-VL: token ids, counted lengths, what is learned, and runs from `train` to `eval`.

The other tests have vocabularies of a few hundred tokens.
"""

# ruff: noqa: RUF001  # full-width signs are what is tried here

from __future__ import annotations

import json
import random
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from real_vocabulary import ADDED, PATTERN, ROWS_OF_EMBEDDING, SPECIAL, ranks, write_real_model
from swift_template import template_of
from swiftalign.checks.learned import sampled
from swiftalign.cli import main
from swiftalign.config.sections import Config
from swiftalign.data.accuracy import pairs
from swiftalign.data.answers import parse_answer
from swiftalign.data.encoded import TemplateEncoder
from swiftalign.data.encoding import Encoding, encoding_of
from swiftalign.data.rows import Rows, open_images, sizes_of, with_images
from swiftalign.data.scan import read_data
from swiftalign.data.words import label_key
from swiftalign.evaluation.questions import questions_of

NFD, NFC = "cafe\u0301 \u212b \ufa10", "café Å 塚"
LABELS = (
    "光纤接头（未固定）", "螺丝/已安装", "機櫃", "👩🏽‍🔧 technician", "🇩🇪❤️", "red box", "ящик №7", "x<y", "١٢٣", NFD,
)  # fmt: skip
PARTS = (
    "检测图片中的螺丝", "光纤未按规定弯曲", "，。！？", "“已安装”", "カメラ", "카메라", "ящик", "déjà vu",
    "हिन्दी", "ไม่", "مرحبا", NFD, "😀", "👩🏽‍🔧", "🇩🇪", "❤️", "\u200d", "\ufeff", "\u0338", "𠮷",
    "Ａｌｐｈａ", "the red box", "it's", "WE'LL", "a" * 30,
    "def box(x: int) -> str:\n\treturn f'{x!r}'", "x += 1;  // don't", "http://a.b/c?d=1&e=2", "{{}}", "</s>",
    "0123456789", "3.14159", "-17", "½", "١٢٣", "１２", "Ⅳ", "1e-4",
    " ", "  ", "\n", "\n\n", "\r\n", "\t", "   \n  ", "\u3000", "\u00a0", " \t \n\n ",
    "<|im_end|>", "<think>", "<|image_pad|>", "<|im_", "end|>", "</tool_call>",
)  # fmt: skip


def answer(draws: random.Random, labels: tuple[str, ...] = LABELS) -> str:
    boxes = []
    for _ in range(draws.randint(1, 5)):
        x, y = draws.randint(0, 800), draws.randint(0, 700)
        boxes.append([x, y, x + draws.randint(5, 200), y + draws.randint(5, 300)])
    return json.dumps([{"bbox_2d": box, "label": draws.choice(labels)} for box in boxes], ensure_ascii=False)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with the real vocabulary, an image, and 40 rows with labels in many scripts."""
    folder = tmp_path_factory.mktemp("real")
    write_real_model(folder / "model")
    Image.new("RGB", (320, 224), (90, 120, 30)).save(folder / "1.png")
    draws, kinds = random.Random(5), {"bbox_2d": 2, "quad": 4, "line": 3}
    lines = []
    for number in range(40):
        objects = []
        for _ in range(draws.randint(1, 8)):
            x, y = draws.randint(0, 200), draws.randint(0, 150)
            points = {2: [x, y, x + 90, y + 70], 4: [x, y, x + 90, y, x + 90, y + 70, x, y + 70]}
            points[3] = [x, y, x + 50, y + 9, x + 99, y + 40]
            key = draws.choice(list(kinds))
            objects.append({"label": draws.choice(LABELS), key: points[kinds[key]]})
        lines.append({"images": ["1.png"], "prompt": f"请找出 {draws.choice(LABELS)}。", "objects": objects})
        if number % 4 == 0:
            told = f"<think>\n想一想 {number}\n</think>\n\n{answer(draws)}"
            talk = [("system", "简短回答。"), ("user", "<image>Where?\r\n  "), ("assistant", told)]
            lines[-1] = {"images": ["1.png"], "messages": [{"role": role, "content": text} for role, text in talk]}
    write(folder / "rows.jsonl", *lines)
    return folder


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def config_of(real: Path, rows: Path, **data: Any) -> Config:
    return Config.model_validate({"model": {"path": str(real / "model")}, "data": {"train": [str(rows)], **data}})


@pytest.fixture(scope="module")
def template(real: Path) -> Any:
    return template_of(real / "model")


# -- the vocabulary ----------------------------------------------------------------------------------------------------


def test_ids_are_those_of_tiktoken_for_a_thousand_texts(real: Path) -> None:
    import tiktoken
    from transformers import AutoTokenizer

    peer = tiktoken.Encoding("qwen", pat_str=PATTERN, mergeable_ranks=ranks(), special_tokens=ADDED)
    added = re.compile(f"({'|'.join(map(re.escape, ADDED))})")

    def expected(text: str) -> list[int]:
        """Qwen's tokenizer looks for the added tokens first, and then makes letters and accents one character."""
        tokens = list[int]()
        for number, part in enumerate(added.split(text)):
            tokens += [ADDED[part]] if number % 2 else peer.encode_ordinary(unicodedata.normalize("NFC", part))
        return tokens

    draws, texts = random.Random(3), []
    for number in range(1000):
        text = "".join(draws.choices(PARTS, k=draws.randint(1, 12)))
        texts.append(text if number % 4 else text + answer(draws))
    tokenizer = AutoTokenizer.from_pretrained(real / "model")
    assert len(tokenizer) == len(ranks()) + len(ADDED) == 151_669 < ROWS_OF_EMBEDDING
    assert [tokenizer.encode(text, add_special_tokens=False) for text in texts] == [*map(expected, texts)]
    assert {token for text in texts for token in expected(text)} >= {ADDED[name] for name in PARTS if name in ADDED}


def test_ids_of_images_and_videos_are_those_of_transformers_and_ms_swift(template: Any) -> None:
    from transformers import Qwen3VLConfig

    config = Qwen3VLConfig()
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {f"vision_{end}_token_id": f"<|vision_{end}|>" for end in ("start", "end")}
    assert {name: getattr(config, name) for name in names} == {name: ADDED[token] for name, token in names.items()}
    of_swift = type(template)  # ms-swift writes the ids of images and videos down
    assert (of_swift.image_token_id, of_swift.video_token_id) == (ADDED["<|image_pad|>"], ADDED["<|video_pad|>"])


# -- lengths -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lengths(real: Path, template: Any) -> list[int]:
    """The tokens of each row as ms-swift encodes it."""
    rows = Rows([real / "rows.jsonl"])
    encoded = []
    for index in range(len(rows)):
        images = open_images(rows.row(index))
        row = with_images(rows.row(index).to_swift(sizes_of(images), rows.writing), images)
        encoded.append(template.encode(row, return_length=True)["length"])
    return encoded


def test_rows_are_as_long_as_ms_swift_makes_them(real: Path, lengths: list[int]) -> None:
    encoding = encoding_of(config_of(real, real / "rows.jsonl"))
    rows = Rows([real / "rows.jsonl"])
    known = [encoding.conversation(rows.row(index), [(320, 224)]) for index in range(len(rows))]
    counted = encoding.lengths([row for row in known if row])
    assert counted == lengths
    assert all(row and length <= row.most for row, length in zip(known, counted, strict=True))
    assert len(set(counted)) > 25


def test_lengths_without_a_tokenizer_are_near(real: Path) -> None:
    """Each digit of a coordinate is a token."""
    encoding = encoding_of(config_of(real, real / "rows.jsonl"))
    rows = Rows([real / "rows.jsonl"])
    known = [row for index in range(len(rows)) if (row := encoding.conversation(rows.row(index), [(320, 224)]))]
    texts = [row._replace(image_tokens=0) for row in known]
    answers = [row._replace(texts=row.texts[1::2]) for row in texts]
    for some in (texts, answers):
        assert sum(Encoding().lengths(some)) == pytest.approx(sum(encoding.lengths(some)), rel=0.3)


def test_rows_that_are_too_long_are_named_with_their_tokens(real: Path, lengths: list[int]) -> None:
    most = sorted(lengths)[len(lengths) // 2]
    report = read_data(config_of(real, real / "rows.jsonl", max_length=most))
    longer = {number: length for number, length in enumerate(lengths, 1) if length > most}
    assert report.counts["data-too-long"] == len(longer) > 5
    [told] = [finding for finding in report.findings if finding.code == "data-too-long"]
    first = min(longer)
    assert told.where == f"{real / 'rows.jsonl'}:{first}"
    assert told.message.splitlines()[0].endswith(f"{longer[first]:,} tokens of {most:,}")
    dropped = read_data(config_of(real, real / "rows.jsonl", max_length=most, too_long="drop"))
    assert dropped.left_out == {real / "rows.jsonl": sorted(longer)}
    assert dropped.rows.train == len(lengths) - len(longer)


# -- what is learned ---------------------------------------------------------------------------------------------------


def test_what_is_learned_is_what_the_rows_say(real: Path, template: Any) -> None:
    encoding = encoding_of(config_of(real, real / "rows.jsonl"))
    encode = TemplateEncoder(template, encoding.writing)
    rows = Rows([real / "rows.jsonl"], writing=encoding.writing)
    assert list(sampled(rows, encode)) == []
    for index in range(len(rows)):
        images = open_images(rows.row(index))
        row = with_images(rows.row(index).to_swift(sizes_of(images), rows.writing), images)
        written = row["messages"][-1]["content"]
        learned = encode(row).learned
        assert learned == unicodedata.normalize("NFC", written) + "<|im_end|>\n"
        assert "\ufffd" not in learned


def test_an_accent_may_be_spelt_in_two_ways(real: Path, template: Any) -> None:
    """The tokenizer makes letter and accent one character, so a model never answers as the row spells it."""
    assert NFD != NFC == unicodedata.normalize("NFC", NFD)
    row = {"images": ["1.png"], "objects": [{"label": NFD, "bbox_2d": [8, 8, 140, 130]}]}
    rows = Rows([write(real / "accents.jsonl", row)])
    encode = TemplateEncoder(template, rows.writing)
    assert list(sampled(rows, encode)) == []
    images = open_images(rows.row(0))
    encoded = encode(with_images(rows.row(0).to_swift(sizes_of(images), rows.writing), images))
    [learned] = encoded.answer.targets
    assert learned.label == NFC
    [true] = parse_answer(json.dumps([{"bbox_2d": [25, 36, 438, 580], "label": NFD}])).targets
    assert [pair.cost for pair in pairs([true], [learned], 320, 224)] == [0]


def own(label: str = "box", **others: Any) -> dict[str, Any]:
    return {"images": ["1.png"], "objects": [{"label": label, "bbox_2d": [8, 8, 140, 130]}], **others}


def talk(question: str, told: str, system: str = "Find.") -> dict[str, Any]:
    texts = {"system": system, "user": f"<image>{question}", "assistant": told}
    return {"images": ["1.png"], "messages": [{"role": role, "content": text} for role, text in texts.items()]}


@pytest.mark.parametrize("name", SPECIAL)
def test_a_special_token_in_a_text_is_told(name: str, real: Path) -> None:
    """Otherwise it would become a token of the template, or vanish from the decoded answers, without a word."""
    rows = {
        "label": own(f"a {name} b"),
        "prompt": own(prompt=f"a {name} b"),
        "question": talk(f"a {name} b", "Here."),
        "answer": talk("Where?", f"a {name} b"),
        "system": talk("Where?", "Here.", system=name),
    }
    mark = re.search("object_ref|box|quad", name)
    for place, row in rows.items():
        report = read_data(config_of(real, write(real / "special.jsonl", row)))
        code = "data-marks" if mark and "messages" in row else "data-special-text"
        assert report.counts.keys() - {"data-unchecked"} == {code}, place
        assert name in report.findings[0].message


@pytest.mark.parametrize(
    "row",
    [
        talk("Where?", "Here.<|im_end|>"),
        talk("Where?", "Here.<|endoftext|>"),
        talk("Answer in <think> and <tool_call>.", "<think>\na\n</think>\n\nHere."),
        own("<think>"),
        own("<|im_end|"),
        own("a < b |> c"),
    ],
    ids=["end of the answer", "end of the text", "tags", "a tag as label", "cut", "no token"],
)
def test_what_is_no_special_token_or_is_meant_passes(row: dict[str, Any], real: Path) -> None:
    assert read_data(config_of(real, write(real / "passes.jsonl", row))).counts == {}


def test_the_name_of_an_added_token_becomes_the_token(template: Any) -> None:
    """The fact that the check of special tokens rests on; and decoding for an evaluation drops the special ones."""
    for name, token in ADDED.items():
        roles = {"user": "Where?", "assistant": f"a {name} b"}
        row = {"messages": [{"role": role, "content": text} for role, text in roles.items()]}
        assert token in template.encode(row)["labels"]
        decoded = template.tokenizer.decode([64, token, 65], skip_special_tokens=True)
        assert (name in decoded) == (name not in SPECIAL)


@pytest.mark.parametrize("row", [own(prompt="a <|image_pad|>"), talk("a <|im_end|>", "[]"), own("<|box_end|>")])
def test_an_evaluation_refuses_special_tokens(
    row: dict[str, Any], real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write(real / "asked.jsonl", own(), row)
    assert main(["eval", str(real / "model"), str(rows), "--output", str(tmp_path / "found")]) == 1
    told = capsys.readouterr().err
    assert f"{rows}:2: <|" in told
    assert "would not be read as text" in told
    assert "--allow data-special-text" in told
    questions = questions_of(Rows([rows]), ["data-special-text"])
    assert [question.where for question in questions] == [f"{rows}:1", f"{rows}:2"]


# -- commands ----------------------------------------------------------------------------------------------------------

BY_HEART = """
data: {train: [two.jsonl], val: [two.jsonl], max_length: 600}
tuner:
  train_type: lora
  freeze_llm: false
  lora_rank: 32
  modules_to_save: [model.visual.merger, model.visual.deepstack_merger_list]
training:
  learning_rate: 1.0e-2
  aligner_lr: 1.0e-3
  max_steps: 60
  per_device_train_batch_size: 2
  gradient_accumulation_steps: 1
  logging_steps: 20
  save_steps: 60
  output_dir: run
"""


def test_a_dry_run_finds_nothing_in_rows_of_many_scripts(
    real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = BY_HEART.replace("two.jsonl", str(real / "rows.jsonl"))
    (tmp_path / "config.yaml").write_text(f"model: {real / 'model'}\n{text}")
    assert main(["train", str(tmp_path / "config.yaml"), "--dry-run"]) == 0
    told = capsys.readouterr()
    assert "data-" not in told.out + told.err


@pytest.mark.long
def test_a_run_from_training_to_evaluation(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two answers learned by heart, in Chinese and with an emoji and accents: they come back letter by letter."""
    monkeypatch.chdir(tmp_path)
    labels = {"a": "光纤接头（未固定）", "b": f"👩🏽‍🔧 {NFD}"}
    for name, colour in {"a": (200, 90, 30), "b": (20, 90, 200)}.items():
        Image.new("RGB", (64, 64), colour).save(f"{name}.png")
    box = {"bbox_2d": [8, 8, 40, 30]}
    rows = [{"images": [f"{name}.png"], "prompt": name, "objects": [box | {"label": labels[name]}]} for name in labels]
    write(tmp_path / "two.jsonl", *rows)
    Path("config.yaml").write_text(f"model: {real / 'model'}\n{BY_HEART}", encoding="utf-8")
    assert main(["train", "config.yaml"]) == 0
    assert main(["verify-ckpt", "run", "--deep", "--base", str(real / "model")]) == 0
    assert main(["export", "run", "--output", "tuned", "--check-logits"]) == 0
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.json"):
        assert Path("tuned", name).read_bytes() == (real / "model" / name).read_bytes()
    capsys.readouterr()
    assert main(["eval", "tuned", "two.jsonl", "--output", "found", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    f1 = {each["label"]: each["f1"] for each in found["by_label"]}
    assert f1 == {label_key(label): 1 for label in labels.values()}
    told = [json.loads(line) for line in Path("found/predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    composed = [unicodedata.normalize("NFC", label) for label in labels.values()]
    meant = [[{"bbox_2d": [125, 125, 625, 469], "label": label}] for label in composed]
    assert [json.loads(each["text"]) for each in sorted(told, key=lambda each: int(each["row"]))] == meant
