"""Something answers in the colony's place, and not in the contract's words."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.operating.scene import Scene

SAID = b'{"hello": "I am a proxy"}'


class Proxy(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.do_GET()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(SAID)))
        self.end_headers()
        self.wfile.write(SAID)

    def log_message(self, *_: Any) -> None:
        pass


def drill(scene: Scene) -> None:
    colony = scene.instance.colony
    colony.stop()
    ThreadingHTTPServer.allow_reuse_address = True
    proxy = ThreadingHTTPServer(("127.0.0.1", colony.port), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        mission = scene.ask()
        scene.degraded(mission, "colony_malformed")
        scene.fires("MalformedPayload")
        seen = scene.see(ID=mission)
        assert "dispatch_answer" in seen and SAID.decode() in seen and "payload.quarantined" in seen
        assert "Colony-Contract-Version" not in scene.do("curl -si $COLONY_URL/health")
    finally:
        proxy.shutdown()
        proxy.server_close()
    colony.start()
    assert "colony-contract-version" in scene.do("curl -si $COLONY_URL/health").lower()
    scene.becomes(mission, "completed")
