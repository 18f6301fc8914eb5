"""`swiftalign eval` on a tiny model in process and on a server: what is asked, kept, gone on with, and told."""

from __future__ import annotations

import base64
import io
import itertools
import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops

from swiftalign.cli import main
from swiftalign.data.rows import Rows

ROWS = 4


@pytest.fixture(scope="module")
def place(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, and a few rows."""
    folder = tmp_path_factory.mktemp("eval")
    shutil.copytree(demo / "model", folder / "model")
    lines = (demo / "data/val.jsonl").read_text(encoding="utf-8").splitlines()[:ROWS]
    shutil.copytree(demo / "data", folder / "data")
    (folder / "data/val.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def evaluated(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "summary.json").read_text(encoding="utf-8"))
    return found


def lines(folder: str) -> list[dict[str, Any]]:
    text = Path(folder, "predictions.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


# -- in process --------------------------------------------------------------------------------------------------------


def test_a_model_is_asked_every_row_and_compared(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "model", "data/val.jsonl", "--against", "model", "-o", "both", "--json"]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == evaluated("both") | {"ok": True, "problems": [], "output": "both", "page": "both/eval.html"}
    assert (told["rows"], told["failed"], told["left_out"]) == (ROWS, 0, 0)
    assert all(each["value"] == 0 for each in told["differences"])  # against itself
    assert {each["row"] for each in lines("both")} == set(range(ROWS))
    assert all(each["logprob"] < 0 for each in lines("both"))
    assert {path.name for path in Path("both").iterdir()} == {
        "eval.json",
        "predictions.jsonl",
        "summary.json",
        "eval.html",
        "worst.png",
        "against",
    }
    # An evaluation that is there is the other side without being asked again.
    assert main(["eval", "model", "data/val.jsonl", "--against", "both/against", "-o", "again"]) == 0
    assert not Path("again/against").exists()
    assert [each["text"] for each in lines("again")] == [each["text"] for each in lines("both/against")]
    printed = capsys.readouterr().out
    assert "against model (other) (95% interval" in printed
    assert "page     again/eval.html" in printed


def test_an_evaluation_that_was_stopped_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "model", "data/val.jsonl", "-o", "stopped"]) == 0
    file, expected = Path("stopped/predictions.jsonl"), lines("stopped")
    whole = file.read_bytes()
    file.write_bytes(whole[: whole.index(b"\n") + 20])  # a row, and the beginning of another
    assert main(["eval", "model", "data/val.jsonl", "-o", "stopped"]) == 0
    assert {each["row"]: each["text"] for each in lines("stopped")} == {each["row"]: each["text"] for each in expected}
    capsys.readouterr()
    Path("model/model.safetensors").touch()
    assert main(["eval", "model", "data/val.jsonl", "-o", "stopped"]) == 2
    told = capsys.readouterr().err
    assert "stopped holds an evaluation that differs in: files" in told
    assert "--force" in told


def test_labels_and_answers_are_printed_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = "[/b]\x1b[31m"  # a tag to rich, which would end in an error, and a command to a terminal
    objects = [{"label": label, "bbox_2d": [1, 2, 30, 40]}, {"label": "cup", "bbox_2d": [1, 2, 30, 40]}]
    row = {"images": [str(next(Path("data").rglob("*.png")).resolve())], "objects": objects}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    command = ["eval", "model", str(tmp_path / "rows.jsonl"), "-o", str(tmp_path / "named")]
    assert main(command) == 0
    answers = tmp_path / "named/predictions.jsonl"
    answers.write_text(json.dumps(json.loads(answers.read_text()) | {"text": f"no JSON {label}"}) + "\n")
    capsys.readouterr()
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "box   [/b]\\x1b[31m " in printed
    assert "  no JSON [/b]\\x1b[31m\n" in printed
    assert "\x1b" not in printed


def test_a_part_of_the_rows_is_spread_over_all() -> None:
    assert main(["eval", "model", "data/val.jsonl", "-o", "few", "--limit", "2"]) == 0
    assert {each["row"] for each in lines("few")} == {0, ROWS - 1}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["model", "data/nowhere.jsonl"], "data/nowhere.jsonl: no such file or folder"),
        (["modle", "data/val.jsonl"], "modle"),
        (["model", "data/val.jsonl", "--protocol", "voc"], "--protocol voc: must be refcoco or coco"),
        (["model", "data/val.jsonl", "--dtype", "fp8"], "--dtype fp8: must be float32, bfloat16 or float16"),
        (["model", "data/val.jsonl", "--served-name", "a"], "--served-name names a model of a server"),
        (["model", "data/val.jsonl", "-o", "model"], "model exists, and holds no evaluation"),
        (["model", "model/config.json"], "model/config.json"),
        (["model", "data/val.jsonl", "--against", "modle"], "modle"),
        (["model", "data/val.jsonl", "--url", "http://127.0.0.1:9/v1"], "no server answers"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_told_before_anything_is_asked(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    output = [] if "-o" in words else ["-o", str(tmp_path / "out")]
    assert main(["eval", *words, *output]) == 2
    printed = capsys.readouterr().err
    assert told in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "out/predictions.jsonl").exists()


def test_rows_that_do_not_ask_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [first, *_] = Path("data/val.jsonl").read_text(encoding="utf-8").splitlines()
    chat = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    file = Path("data/mixed.jsonl")
    file.write_text(f"{json.dumps(chat)}\n{first}\n", encoding="utf-8")
    assert main(["eval", "model", str(file), "-o", str(tmp_path / "out")]) == 0
    assert "left out: 1 row that do not ask" in capsys.readouterr().out
    file.write_text(f"{json.dumps(chat)}\n", encoding="utf-8")
    assert main(["eval", "model", str(file), "-o", str(tmp_path / "none")]) == 2
    assert "no row asks where something is" in capsys.readouterr().err


# -- a server ----------------------------------------------------------------------------------------------------------

TEXT = '[{"bbox_2d": [1, 2, 300, 400], "label": "cup"}]'
Answered = Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]


class Server:
    """A server that speaks the protocol, and writes down what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.models = ["tuned"]
        self.reply: Answered = lambda body: (200, written(TEXT))
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in server.models]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.keys.append(self.headers["Authorization"])
                server.asked.append(body)
                self.send(*server.reply(body))

            def send(self, status: int, values: dict[str, Any]) -> None:
                content = json.dumps(values).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


def written(text: str, logprobs: list[float] | None = None) -> dict[str, Any]:
    tokens = [{"token": "a", "logprob": value, "top_logprobs": []} for value in logprobs or []]
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": text},
        "logprobs": {"content": tokens} if logprobs else None,
    }
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "tuned", "choices": [choice]}


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.http.shutdown()
    found.http.server_close()


def ask(server: Server, folder: Path, *more: str) -> int:
    return main(["eval", "model", "data/val.jsonl", "--url", server.url, "-o", str(folder), *more])


def test_a_server_gets_the_pixels_and_the_words_of_the_rows(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert ask(server, tmp_path / "out") == 0
    assert {each["text"] for each in lines(str(tmp_path / "out"))} == {TEXT}
    assert len(server.asked) == ROWS
    assert set(server.keys) == {"Bearer secret"}
    by_prompt, rows = {}, Rows([Path("data/val.jsonl")])
    for body in server.asked:
        assert (body["model"], body["temperature"]) == ("tuned", 0)
        [message] = body["messages"]
        url, text = (part.get("image_url", {}).get("url") or part.get("text") for part in message["content"])
        by_prompt[text] = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))
    for index in range(ROWS):
        row = rows[index]
        sent = by_prompt[row["messages"][0]["content"].removeprefix("<image>")]
        assert ImageChops.difference(sent, row["images"][0]).getbbox() is None


def test_a_request_that_fails_at_first_is_asked_again(server: Server, tmp_path: Path) -> None:
    turns: dict[str, int] = {}

    def busy(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        key = json.dumps(body["messages"])
        turns[key] = turns.get(key, 0) + 1
        return (503, {"error": {"message": "busy"}}) if turns[key] == 1 else (200, written(TEXT))

    server.reply = busy
    assert ask(server, tmp_path / "out") == 0
    assert set(turns.values()) == {2}
    assert evaluated(str(tmp_path / "out"))["failed"] == 0


@pytest.mark.parametrize(("stopped_at", "answered"), [(1, 0), (3, 1)])
def test_a_stopped_command_does_not_wait_for_the_server(
    server: Server, tmp_path: Path, stopped_at: int, answered: int
) -> None:
    before, released, calls = set(threading.enumerate()), threading.Event(), itertools.count(1)

    def slow(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        call = next(calls)  # the server answers in several threads
        if call == stopped_at:
            # To this thread: the system may choose any, and the main thread's wait does not end by it.
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        if call > answered:
            released.wait(60)
        return 200, written(TEXT)

    server.reply = slow
    began = time.monotonic()
    assert ask(server, tmp_path / "out") == 143
    assert time.monotonic() - began < 40
    assert all(thread.daemon for thread in set(threading.enumerate()) - before)  # the interpreter waits for others
    released.set()
    kept = (tmp_path / "out/predictions.jsonl").exists()  # it is not, before the first answer
    assert (len(lines(str(tmp_path / "out"))) if kept else 0) == answered


def test_a_row_that_cannot_be_asked_is_no_wrong_answer(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused: set[str] = set()

    def picky(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        key = json.dumps(body["messages"])
        if not refused or key in refused:
            refused.add(key)
            return 400, {"error": {"message": "image too large"}}
        return 200, written(TEXT)

    server.reply = picky
    out = tmp_path / "out"
    assert ask(server, out) == 1
    printed = capsys.readouterr().out
    assert "failed: 1 row could not be asked: Error code: 400" in printed
    assert "image too large" in printed
    found = evaluated(str(out))
    assert (found["rows"], found["failed"], found["malformed"]) == (ROWS, 1, 0)
    true = sum(len(each["true"]) for each in lines(str(out)) if not each["error"])
    assert sum(each["true"] for each in found["by_kind"]) == true
    # The next call asks that row alone.
    before, refused_before = len(server.asked), dict.fromkeys(refused)
    server.reply = lambda body: (200, written(TEXT))
    assert ask(server, out) == 0
    assert [json.dumps(body["messages"]) for body in server.asked[before:]] == list(refused_before)
    assert evaluated(str(out))["failed"] == 0


def test_probabilities_are_the_scores_of_boxes_where_the_server_gives_them(server: Server, tmp_path: Path) -> None:
    server.reply = lambda body: (200, written(TEXT, [-0.5, -0.25] if body.get("logprobs") else None))
    assert ask(server, tmp_path / "given", "--protocol", "coco") == 0
    assert {each["logprob"] for each in lines(str(tmp_path / "given"))} == {-0.75}
    assert evaluated(str(tmp_path / "given"))["coco"]["score"] == "the answer's probability"

    def strict(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return (422, {"error": {"message": "logprobs?"}}) if "logprobs" in body else (200, written(TEXT))

    server.reply = strict
    assert ask(server, tmp_path / "refused", "--protocol", "coco") == 0
    assert evaluated(str(tmp_path / "refused"))["coco"]["score"] == "1"


def test_a_model_that_the_server_does_not_have_is_told(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.reply = lambda body: (404, {"error": {"message": "The model `a` does not exist."}})
    assert ask(server, tmp_path / "out", "--served-name", "a") == 2
    told = capsys.readouterr().err
    assert "the server refuses 'a'" in told
    assert "--served-name" in told
    server.models = ["one", "two"]
    assert ask(server, tmp_path / "which") == 2
    assert "the server has several models: one, two" in capsys.readouterr().err


def test_a_model_that_only_the_server_has_is_asked_by_its_id(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Qwen2.5-VL writes pixels of the image as it reaches the model, and these images have small sides."""
    for name, warned in (("Qwen/Qwen2.5-VL-7B-Instruct", False), ("someone/unknown-vl", True)):
        out = tmp_path / name.rpartition("/")[2]
        assert main(["eval", name, "data/val.jsonl", "--url", server.url, "-o", str(out)]) == 0
        assert ("it is not known how" in capsys.readouterr().err) == warned
        [written] = {json.dumps(each["predicted"]) for each in lines(str(out)) if each["size"] == [128, 128]}
        points = json.loads(written)[0]["points"] if json.loads(written) else None
        assert points == ([[1, 2], [300, 400]] if warned else None)  # 300 pixels lie outside


def test_a_server_that_goes_away_ends_the_evaluation(server: Server, tmp_path: Path) -> None:
    from swiftalign.evaluation.engine import Request
    from swiftalign.evaluation.questions import questions_of
    from swiftalign.evaluation.served import ServedModel
    from swiftalign.problems import SwiftalignError

    rows = Rows([Path("data/val.jsonl")])
    questions = questions_of(rows)
    model = ServedModel(server.url, "tuned", together=1)
    replies = model.answer([Request(question, 9) for question in questions], rows)
    assert next(replies).text == TEXT
    server.http.shutdown()
    server.http.server_close()
    told = []
    with pytest.raises(SwiftalignError, match="does not answer any more"):
        told.extend(replies)
    assert all(reply.error for reply in told)


# -- what runs keep ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_is_asked_with_its_base_and_its_own_words() -> None:
    rows = [json.loads(line) for line in Path("data/val.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        del row["prompt"]
    Path("data/bare.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    values = {
        "model": "./model",
        "data": {"train": ["data/bare.jsonl"], "text": {"prompt": "Show me everything."}},
        "tuner": {
            "train_type": "lora",
            "lora_rank": 2,
            "target_regex": r"model\.visual\.(merger|deepstack_merger_list\.\d+)\.linear_fc1",
        },
        "training": {"max_steps": 1, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1},
    }
    Path("config.yaml").write_text(json.dumps(values), encoding="utf-8")
    assert main(["train", "config.yaml", "--set", "training.output_dir=run"]) == 0
    assert main(["eval", "run", "data/bare.jsonl", "-o", "of-run"]) == 0
    assert {each["prompt"] for each in lines("of-run")} == {"<image>Show me everything."}
    assert main(["eval", "run/checkpoint-1", "data/bare.jsonl", "-o", "of-checkpoint", "--against", "of-run"]) == 0
    assert json.loads(Path("of-checkpoint/eval.json").read_text())["name"] == "run/checkpoint-1"
    assert [each["text"] for each in lines("of-checkpoint")] == [each["text"] for each in lines("of-run")]
    # Asked with other words, it is another evaluation.
    assert main(["eval", "model", "data/bare.jsonl", "-o", "of-base", "--against", "of-run"]) == 2
    assert main(["eval", "model", "data/bare.jsonl", "-o", "as-run", "--config", "config.yaml"]) == 0
    assert {each["prompt"] for each in lines("as-run")} == {"<image>Show me everything."}
