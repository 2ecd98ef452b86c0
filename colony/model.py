"""A language model, asked for JSON by the OpenAI protocol: directly, or through the root. Only imported when a route names one."""

import json
from collections.abc import Callable
from typing import Any

from openai import AsyncOpenAI, OpenAIError

from colony.case import ModelFailed
from colony_client.contract import UsageReported

ANSWER_TOKENS = 2_000
PATIENCE_S = 60.0
NO_GATEWAY = "the root has given this attempt no key to its model gateway"


class DirectModel:
    """One model behind one URL. What it uses is reported, and it stops when the mission's tokens are used up."""

    def __init__(self, url: str, name: str, key: str | None, tell: Callable[..., None], tokens: int) -> None:
        self.name = name
        self._client = AsyncOpenAI(base_url=url, api_key=key or "none", max_retries=2, timeout=PATIENCE_S)
        self._tell, self._left = tell, tokens

    async def answer(self, instructions: str, question: str) -> dict[str, Any]:
        if self._left <= 0:
            raise ModelFailed("the mission's token budget is used up")
        said = await asked(self._client, self.name, instructions, question, min(ANSWER_TOKENS, self._left))
        self._report(said.usage)
        return json_of(said)

    async def aclose(self) -> None:
        await self._client.close()

    def _report(self, usage: Any) -> None:
        if usage is not None:
            self._left -= usage.total_tokens
            used = {"tokens_in": usage.prompt_tokens, "tokens_out": usage.completion_tokens}
            self._tell(UsageReported, **used, cost_usd=0.0, provider=self.name[:200])


class RootModel:
    """A model behind the root's gateway. The root counts what it uses and says when that is enough: nothing is reported."""

    def __init__(self, url: str, name: str, token: Callable[[], str | None]) -> None:
        self.name, self._token = name, token
        self._client = AsyncOpenAI(base_url=url, api_key="the-newest-token", max_retries=2, timeout=PATIENCE_S)

    async def answer(self, instructions: str, question: str) -> dict[str, Any]:
        token = self._token()  # they are replaced while the attempt lives
        if token is None:
            raise ModelFailed(NO_GATEWAY)
        client = self._client.with_options(api_key=token)
        return json_of(await asked(client, self.name, instructions, question, ANSWER_TOKENS))

    async def aclose(self) -> None:
        await self._client.close()


async def asked(client: AsyncOpenAI, model: str, instructions: str, question: str, most: int) -> Any:
    """The completion. Raises ModelFailed."""
    messages: Any = [{"role": "system", "content": instructions}, {"role": "user", "content": question}]
    try:
        return await client.chat.completions.create(
            model=model,
            messages=messages,
            temperature=0,
            max_tokens=most,
            response_format={"type": "json_object"},
        )
    except OpenAIError as error:
        raise ModelFailed(f"{type(error).__name__}: {error}"[:1500]) from None


def json_of(said: Any) -> dict[str, Any]:
    """The JSON object of a completion. Raises ModelFailed."""
    try:
        answer = json.loads(said.choices[0].message.content or "")
    except (json.JSONDecodeError, IndexError) as error:
        raise ModelFailed(f"the answer is not JSON ({error})") from None
    if not isinstance(answer, dict):
        raise ModelFailed("the answer is not a JSON object")
    return answer
