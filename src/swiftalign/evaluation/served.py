"""A model behind a server that speaks OpenAI's protocol: vLLM, SGLang, LMDeploy, ``transformers serve``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import islice

from swiftalign.evaluation.chat import messages_of, with_image_urls
from swiftalign.evaluation.engine import Reply, Request, RowsAsked
from swiftalign.evaluation.questions import without_answer
from swiftalign.problems import SwiftalignError

TRIES = 3  # of a request that fails
SECONDS = 600.0  # of a request


class ServedModel:
    """A server that is asked several questions at a time.

    Args:
        url: address of the protocol's root, such as http://localhost:8000/v1.
        name: the name under which the server has the model.
        key: the key that the server asks for; None for a server that asks for none.
        together: number of requests in flight.
        system: the text of a system message; None for none.
    """

    def __init__(
        self, url: str, name: str, *, key: str | None = None, together: int = 32, system: str | None = None
    ) -> None:
        from openai import OpenAI

        self._client = OpenAI(base_url=url, api_key=key or "none", max_retries=0, timeout=SECONDS)
        self.url, self.name, self._together, self._system = url, name, together, system

    def tokens(self, text: str) -> int:
        """At most as many tokens as bytes: the server's tokenizer is not known here."""
        return len(text.encode())

    def answer(self, requests: Iterable[Request], rows: RowsAsked) -> Iterator[Reply]:
        """Replies as they come. The first question is asked alone, so that a server that is not there is told at once.

        Raises:
            SwiftalignError: there is no server, or it does not have the model.
        """
        from openai import APIConnectionError, AuthenticationError, NotFoundError, PermissionDeniedError

        left = iter(requests)
        for first in islice(left, 1):
            try:
                yield Reply(first.row, self._ask(first, rows))
            except APIConnectionError as error:
                hint = "start the server, or correct --url: it ends in /v1 for most servers"
                raise SwiftalignError(
                    f"--url {self.url}: no server answers: {error.__cause__ or error}", hint
                ) from None
            except (NotFoundError, AuthenticationError, PermissionDeniedError) as error:
                message = f"--url {self.url}: the server refuses {self.name!r}: {error}"
                raise SwiftalignError(message, "name the model as the server does, with --served-name") from None
            except Exception as error:
                yield self._again(first, rows, error)
        with ThreadPoolExecutor(self._together) as pool:
            running = {pool.submit(self._reply, request, rows) for request in islice(left, self._together)}
            try:
                while running:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    running |= {pool.submit(self._reply, request, rows) for request in islice(left, len(done))}
                    yield from (each.result() for each in done)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _reply(self, request: Request, rows: RowsAsked) -> Reply:
        try:
            return Reply(request.row, self._ask(request, rows))
        except Exception as error:
            return self._again(request, rows, error)

    def _again(self, request: Request, rows: RowsAsked, error: Exception) -> Reply:
        """Ask a question again that failed."""
        for tries in range(2, TRIES + 1):
            try:
                return Reply(request.row, self._ask(request, rows), tries=tries)
            except Exception as again:
                error = again
        return Reply(request.row, None, " ".join(str(error).split())[:500] or type(error).__name__, TRIES)

    def _ask(self, request: Request, rows: RowsAsked) -> str:
        asked = without_answer(rows[request.row])
        messages = with_image_urls(messages_of(asked, self._system), asked.get("images") or [])
        found = self._client.chat.completions.create(
            model=self.name,
            messages=messages,  # type: ignore[arg-type]  # the same as its types say
            temperature=0,
            max_tokens=request.most,
        )
        return found.choices[0].message.content or ""
