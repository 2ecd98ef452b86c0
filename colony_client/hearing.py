"""What a peer has said in one exchange, byte by byte: all there is to look at when it never became an HTTP answer."""

import ssl
from contextvars import ContextVar
from typing import Any

import httpcore
import httpx

MOST_HEARD = 64 * 1024
heard: ContextVar[bytearray | None] = ContextVar("heard", default=None)  # set by whoever wants to know, per task


class Listening(httpx.AsyncHTTPTransport):
    """httpx's own transport; what comes in over its connections is added to `heard` of the task that reads."""

    def __init__(self, base_url: str, max_connections: int) -> None:
        # to read all authorities takes 30 ms and a megabyte; a context that knows none trusts nobody
        secure = base_url.lower().startswith("https:")
        context = httpx.create_ssl_context(trust_env=False) if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        super().__init__(verify=context, trust_env=False)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=max_connections,
            max_keepalive_connections=max_connections,
            keepalive_expiry=5.0,
            network_backend=_Ears(),
        )


class _Ears(httpcore.AnyIOBackend):
    async def connect_tcp(self, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        return _Ear(await super().connect_tcp(*args, **options))


class _Ear(httpcore.AsyncNetworkStream):
    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109  # the signatures are httpcore's
        data = await self._stream.read(max_bytes, timeout)
        listening = heard.get()
        if listening is not None:
            listening += data[: MOST_HEARD - len(listening)]
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        return _Ear(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
