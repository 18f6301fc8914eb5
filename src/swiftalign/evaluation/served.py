"""A model behind a server that speaks OpenAI's protocol: vLLM, SGLang, LMDeploy, ``transformers serve``."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import islice
from typing import Any

from swiftalign.data.rows import Rows
from swiftalign.evaluation.chat import PLAIN, Chatting, messages_of, with_image_urls
from swiftalign.evaluation.engine import Reply, Request
from swiftalign.evaluation.questions import without_answer
from swiftalign.problems import SwiftalignError

TRIES = 3  # of a request that may succeed later, with growing pauses
SECONDS = 600.0  # that a request may take
TOGETHER = 32  # requests in flight

_LOOK_SECONDS = 1.0  # after which a wait for answers looks for signals


class ServedModel:
    """A server that is asked several questions at a time.

    Args:
        url: address of the protocol's root, such as http://localhost:8000/v1.
        name: the name under which the server has the model; None for the only one that it has.
        key: the key that the server asks for; None for a server that asks for none.
        together: number of requests in flight.
        chatting: how rows become conversations.
        probabilities: whether the server is asked for the probabilities of what it writes.

    Raises:
        SwiftalignError: no name is given, and the server does not say which model it has.
    """

    def __init__(
        self,
        url: str,
        name: str | None = None,
        *,
        key: str | None = None,
        together: int = TOGETHER,
        chatting: Chatting = PLAIN,
        probabilities: bool = False,
    ) -> None:
        from openai import OpenAI

        self._client = OpenAI(base_url=url, api_key=key or "none", max_retries=TRIES - 1, timeout=SECONDS)
        self.url, self._together, self._chatting = url, together, chatting
        self._probabilities = probabilities
        self.name = name or self._only_model()

    def _only_model(self) -> str:
        """The name of the server's model; some servers have no list, or one of all models that they could load."""
        from openai import APIConnectionError, OpenAIError

        try:
            names = [model.id for model in self._client.models.list()]
        except APIConnectionError as error:
            raise self._unreachable(error) from None
        except OpenAIError:
            names = []
        if len(names) != 1:
            told = f"the server has several models: {', '.join(names[:10])}" if names else "the server does not list it"
            hint = "name the model as the server does, with --served-name"
            raise SwiftalignError(f"--url {self.url}: which model? {told}", hint)
        return names[0]

    def _unreachable(self, error: Exception) -> SwiftalignError:
        hint = "start the server, or correct --url: it ends in /v1 for most servers"
        return SwiftalignError(f"--url {self.url}: no server answers: {error.__cause__ or error}", hint)

    def answer(self, requests: Sequence[Request], rows: Rows) -> Iterator[Reply]:
        """Replies as they come. The first question is asked alone, so that a server that is not there is told at once.

        Raises:
            SwiftalignError: there is no server, it does not have the model, or it is gone.
            RowError: an image can't be read.
        """
        from openai import APIConnectionError, AuthenticationError, NotFoundError, OpenAIError, PermissionDeniedError

        left, lost = iter(requests), 0
        for first in islice(left, 1):
            try:
                [asked] = _answered([self._begin(first, rows)])
                yield asked.result()
            except APIConnectionError as error:
                raise self._unreachable(error) from None
            except (NotFoundError, AuthenticationError, PermissionDeniedError) as error:
                message = f"--url {self.url}: the server refuses {self.name!r}: {error}"
                hint = "name the model as the server does, with --served-name; a key is read from OPENAI_API_KEY"
                raise SwiftalignError(message, hint) from None
            except OpenAIError as error:
                yield _failed(first, error)
        running = {self._begin(each, rows): each for each in islice(left, self._together)}
        while running:
            for done in _answered(running):
                request = running.pop(done)
                try:
                    reply, lost = done.result(), 0
                except APIConnectionError as error:
                    reply, lost = _failed(request, error), lost + 1
                    if lost > self._together:
                        hint = "start it again; the same command goes on where it stopped"
                        message = f"--url {self.url}: the server does not answer any more"
                        raise SwiftalignError(message, hint) from None
                except OpenAIError as error:
                    reply = _failed(request, error)
                yield reply
                running |= {self._begin(each, rows): each for each in islice(left, 1)}

    def _begin(self, request: Request, rows: Rows) -> Future[Reply]:
        """Ask in a thread of its own, which does not keep a command from ending: an answer may take minutes."""
        reply: Future[Reply] = Future()

        def ask() -> None:
            try:
                reply.set_result(self._ask(request, rows))
            except Exception as error:
                reply.set_exception(error)

        threading.Thread(target=ask, daemon=True).start()
        return reply

    def _ask(self, request: Request, rows: Rows) -> Reply:
        from openai import BadRequestError, UnprocessableEntityError

        asked = without_answer(rows[request.question.index])
        messages: Any = with_image_urls(messages_of(asked, self._chatting.system), asked["images"])
        more: dict[str, Any] = {"logprobs": True} if self._probabilities else {}
        if self._chatting.switches:
            more["extra_body"] = {"chat_template_kwargs": self._chatting.switches}
        fixed = {"model": self.name, "messages": messages, "temperature": 0, "max_tokens": request.most}
        try:
            found = self._client.chat.completions.create(**fixed, **more)
        except (BadRequestError, UnprocessableEntityError):
            if "logprobs" not in more:
                raise
            self._probabilities = False  # a server that does not give them
            del more["logprobs"]
            found = self._client.chat.completions.create(**fixed, **more)
        choice = found.choices[0]
        tokens = choice.logprobs.content if choice.logprobs else None
        logprob = sum(token.logprob for token in tokens) if tokens else None
        return Reply(request.question.index, choice.message.content or "", logprob=logprob)


def _answered(running: Collection[Future[Reply]]) -> set[Future[Reply]]:
    """Wait for at least one reply.

    Where another thread got a signal, or it came just before a wait, Python handles it when that wait is over.
    """
    while not (done := wait(running, timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED).done):
        pass
    return done


def _failed(request: Request, error: Exception) -> Reply:
    return Reply(request.question.index, None, " ".join(str(error).split())[:500] or type(error).__name__)
