"""A direct model route: an OpenAI-compatible endpoint, asked for JSON. Only imported when such a route is set."""

import json
from collections.abc import Callable
from typing import Any

from openai import AsyncOpenAI, OpenAIError

from colony.case import ModelFailed
from colony_client.contract import UsageReported

ANSWER_TOKENS = 2_000


class DirectModel:
    """One model behind one URL. What it uses is reported, and it stops when the mission's tokens are used up."""

    def __init__(self, url: str, name: str, key: str | None, tell: Callable[..., None], tokens: int) -> None:
        self.name = name
        self._client = AsyncOpenAI(base_url=url, api_key=key or "none", max_retries=2, timeout=60.0)
        self._tell, self._left = tell, tokens

    async def answer(self, instructions: str, question: str) -> dict[str, Any]:
        if self._left <= 0:
            raise ModelFailed("the mission's token budget is used up")
        messages: Any = [{"role": "system", "content": instructions}, {"role": "user", "content": question}]
        try:
            said = await self._client.chat.completions.create(
                model=self.name,
                messages=messages,
                temperature=0,
                max_tokens=min(ANSWER_TOKENS, self._left),
                response_format={"type": "json_object"},
            )
        except OpenAIError as error:
            raise ModelFailed(f"{type(error).__name__}: {error}"[:1500]) from None
        self._report(said.usage)
        try:
            answer = json.loads(said.choices[0].message.content or "")
        except (json.JSONDecodeError, IndexError) as error:
            raise ModelFailed(f"the answer is not JSON ({error})") from None
        if not isinstance(answer, dict):
            raise ModelFailed("the answer is not a JSON object")
        return answer

    def _report(self, usage: Any) -> None:
        if usage is not None:
            self._left -= usage.total_tokens
            used = {"tokens_in": usage.prompt_tokens, "tokens_out": usage.completion_tokens}
            self._tell(UsageReported, **used, cost_usd=0.0, provider=self.name[:200])
