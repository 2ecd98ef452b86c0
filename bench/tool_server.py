"""A tool server that does next to nothing: `python -m bench.tool_server PORT` over HTTP, without a port over stdio."""

import sys

from mcp.server.mcpserver import MCPServer

server = MCPServer("bench", version="1")


@server.tool(structured_output=False)
def echo(text: str) -> str:
    """Says it again."""
    return text


if __name__ == "__main__":
    if len(sys.argv) > 1:
        import uvicorn

        app = server.streamable_http_app(json_response=True)
        uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error", access_log=False)
    else:
        server.run()
