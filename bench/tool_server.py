"""A tool server that does next to nothing: `python -m bench.tool_server PORT` over HTTP, without a port over stdio."""

import asyncio
import sys

from mcp.server.mcpserver import MCPServer

server = MCPServer("bench", version="1")


@server.tool(structured_output=False)
async def echo(text: str, after_ms: int = 0) -> str:
    """Says it again, after a while."""
    await asyncio.sleep(after_ms / 1000)
    return text


if __name__ == "__main__":
    if len(sys.argv) > 1:
        import uvicorn

        app = server.streamable_http_app(json_response=True)
        uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error", access_log=False)
    else:
        server.run()
