"""The registrar hangs."""

import os
import signal

from tests.operating.scene import SEE, Scene
from tests.walks.conftest import until


def drill(scene: Scene) -> None:
    hanging = scene.instance.pid("registrar")
    os.kill(hanging, signal.SIGSTOP)
    scene.fires("ProcessDown")
    seen = scene.see()
    assert "registrar 000" in seen and "serve 200" in seen
    scene.do("tail -n 1")
    scene.do("kill -9")
    until(lambda: scene.instance.pid("registrar") != hanging, "it is started again")
    until(lambda: "registrar 200" in scene.type(scene.line(SEE, "registrar"), "operator", {}).text, "it answers")
    scene.rests("ProcessDown")
