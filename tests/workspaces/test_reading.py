"""Reading files of every kind, and refusing what cannot be read with a sentence that helps."""

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import pytest

from app.workspaces import reading
from app.workspaces.extract import LARGEST_DOCUMENT, Unreadable
from app.workspaces.reading import Reading, read_document, read_here


def read(path: str, data: bytes) -> Reading:
    found = read_here(path, data)
    assert isinstance(found, Reading), found
    return found


def refused(path: str, data: bytes) -> Unreadable:
    found = read_here(path, data)
    assert isinstance(found, Unreadable), found
    assert path in found.detail and found.detail.endswith("."), "a refusal names the file and ends as a sentence"
    return found


@pytest.mark.parametrize("path", ["a.md", "a.rst", "a.txt", "a", "deep/er/A.MD"])
@pytest.mark.parametrize("text", ["# Käse\n\nBrot.\n", "\ufeff# Käse\r\n\r\nBrot.\r\n", "Käse\n====\n\nBrot."])
def test_utf8_text_is_kept_byte_for_byte(path: str, text: str) -> None:
    assert read(path, text.encode()).source == text.encode()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_other_encodings_become_utf8(encoding: str) -> None:
    text = "Grüße aus Köln, sagte sie – “alles” gut.\n"
    assert read("a.txt", text.encode(encoding)).source.decode() == text


@pytest.mark.parametrize("name", ["unicode_escape", "utf-7", "punycode", "rot13", "idna", "base64", "x" * 300])
def test_html_cannot_declare_what_is_no_encoding_of_text(name: str) -> None:
    page = f"<meta charset={name}><p>caf\xe9 \\ud800 +2AA-".encode("latin-1")
    assert "café" in read("a.html", page).source.decode()


def test_html_may_declare_its_encoding() -> None:
    page = "<meta charset=iso-8859-2><p>zażółć gęślą jaźń".encode("iso-8859-2")
    assert read("a.html", page).source.decode() == "zażółć gęślą jaźń"


@pytest.mark.parametrize(
    ("path", "text", "kind", "title"),
    [
        ("x/guide.md", "Intro\n\n# The *Guide*\n", "markdown", "The Guide"),
        ("x/guide.rst", "Guide :ref:`a <b>`\n==================\n\nText", "rst", "Guide a"),
        ("x/notes.txt", "Only words here.", "text", "notes"),
        ("x/guide.rst.txt", "Title\n=====\n\n.. note:: a\n\nsee :doc:`b`", "rst", "Title"),
        ("README", "# One\n\n## Two\n", "markdown", "One"),
        ("a.html", "<title>Tab</title><h1>Head <a class=headerlink>¶</a></h1><p>x", "html", "Head"),
        ("a.htm", "<title>Tab\n name</title><p>x", "html", "Tab name"),
    ],
)
def test_kind_and_title(path: str, text: str, kind: str, title: str) -> None:
    found = read(path, text.encode())
    assert (found.kind, found.title) == (kind, title)


def test_html_keeps_content_and_drops_furniture() -> None:
    page = """<!doctype html><html><head><title>T</title><style>p{}</style></head><body>
      <header class="site-header">Brand</header><nav><ul><li>Menu</li></ul></nav>
      <main><h1>Backup</h1><p>Copy   the
      <b>data</b> first.<br>Then check.</p><h2>Steps</h2>
      <ol start=3><li>Stop</li><li><p>Copy</p><ul><li>all</li></ul></li></ol>
      <dl><dt><code>--jobs</code></dt><dd>How many <em>at once</em>.</dd></dl>
      <pre><code>cp  -a   x y
```
end</code></pre>
      <table><tr><th>Name</th><th>Value</th></tr><tr><td>a</td><td><p>1</p><p>2</p></td></tr></table>
      <script>alert(1)</script><div class="toc">Contents</div><p hidden>secret</p></main>
      <footer>Imprint</footer></body></html>"""
    found = read("a.html", page.encode())
    assert found.source.decode() == (
        "# Backup\n\nCopy the data first.\nThen check.\n\n## Steps\n\n3. Stop\n4. Copy\n  - all\n\n"
        "- --jobs\n\n  How many at once.\n\n````\ncp  -a   x y\n```\nend\n````\n\n| Name | Value |\n| a | 1 2 |"
    )


def test_html_whose_names_mislead_is_read_whole() -> None:
    assert "all there is" in read("a.html", b"<body><div class=sidebar><p>This is all there is.</div>").source.decode()


def pdf(*pages: str, title: str = "", encrypt: bool = False) -> bytes:
    """A small PDF with one line of Helvetica per line of text."""
    lines = [page.split("\n") for page in pages]
    streams = [
        "BT /F1 12 Tf 14 TL 72 720 Td "
        + " ".join("(" + line.replace("(", r"\(").replace(")", r"\)") + ") Tj T*" for line in page)
        + " ET"
        for page in lines
    ]
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for number, stream in enumerate(streams):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    objects.append(f"<< /Title ({title}) >>")
    body, places = "%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    size = len(objects) + 1
    body += f"xref\n0 {size}\n0000000000 65535 f \n{table}"
    body += f"trailer\n<< /Size {size} /Root 1 0 R /Info {size - 1} 0 R >>\nstartxref\n{body.index('xref')}\n%%EOF\n"
    if not encrypt:
        return body.encode("latin-1")
    import io

    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(PdfReader(io.BytesIO(body.encode("latin-1"))))
    writer.encrypt("secret", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def test_pdf_pages_are_read_and_divided_words_joined() -> None:
    found = read("report.pdf", pdf("The exam-\nple shows a well-\nKnown fact.", "Second page.", title="A Report"))
    assert found.title == "A Report"
    assert found.source.decode() == "The example shows a well-Known fact.\n\f\nSecond page."
    assert [passage.heading for passage in found.passages] == ["page 1", "page 2"]


def test_a_pdf_is_known_by_its_first_bytes() -> None:
    assert read("report.txt", pdf("Words.")).kind == "pdf"


def test_files_that_cannot_be_read_are_refused_by_name() -> None:
    noise = random.Random(7).randbytes(50_000)
    assert refused("a.png", b"x").code == "unsupported"
    assert refused("a.md", noise).code == "not_text"
    assert refused("a.html", noise).code == "not_text"
    assert refused("a.txt", b"text\0text").code == "not_text"
    assert refused("a.md", b" \n\t ").code == "empty"
    assert refused("a.html", b"<script>only()</script>").code == "empty"
    assert refused("a.pdf", pdf("")).code == "empty"
    assert refused("a.pdf", b"%PDF-1.7\n" + noise).code == "malformed"
    assert refused("a.pdf", pdf("Words and more words.")[:300]).code == "malformed"
    assert refused("a.pdf", pdf("Words.", encrypt=True)).code == "encrypted"
    assert refused("a.md", b"x" * (LARGEST_DOCUMENT + 1)).code == "too_large"


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("ä.md", "# Tïtle\n\ngrößer. ".encode() * 20_000),
        ("a.html", b"<h1>T</h1><p>words"),
        ("a.pdf", pdf("Page one.", "Page two.")),
        ("a.png", b"x"),
        ("a.md", b""),
    ],
)
async def test_documents_read_the_same_in_the_reading_process(path: str, data: bytes) -> None:
    assert await read_document(path, data) == read_here(path, data)


async def test_a_file_made_to_cost_hours_is_refused_at_the_limit_and_the_next_one_is_read(monkeypatch: Any) -> None:
    monkeypatch.setattr(reading, "CPU_SECONDS", 1)
    hostile = [read_document(f"deep{n}.html", b"<div>" * 400_000) for n in range(3)]
    *bad, good = await asyncio.gather(*hostile, read_document("a.md", b"# Fine"))
    assert [getattr(one, "code", None) for one in bad] == ["malformed"] * 3
    assert isinstance(good, Reading) and good.title == "Fine"


async def test_a_file_that_swells_is_refused_at_the_limit() -> None:
    found = await read_document("lines.txt", b"\n" * LARGEST_DOCUMENT)
    assert isinstance(found, Unreadable)


async def test_a_reading_process_is_used_again_has_no_secrets_and_dies_with_its_caller(monkeypatch: Any) -> None:
    monkeypatch.setattr(reading, "_idle", [])
    monkeypatch.setenv("ROOT_SIGNING_KEY", "one:secret-of-the-tests")
    big = bytearray(b"x") * (reading.RETIRING_BYTES + 2**20)  # what its caller holds says nothing about the reader
    await read_document("a.md", b"# A")
    del big
    [reader] = reading._idle
    assert reader.process is not None
    first = reader.process.pid
    assert b"secret" not in Path(f"/proc/{first}/environ").read_bytes()
    await read_document("b.md", b"# B")
    assert [one.process and one.process.pid for one in reading._idle] == [first]
    assert reader.process.stdin is not None
    reader.process.stdin.close()  # what the kernel does when the caller is gone
    assert reader.process.wait(10) == 0
    assert isinstance(await read_document("c.md", b"# C"), Reading), "and another takes its place"


async def test_reading_ends_when_nobody_waits_for_it(monkeypatch: Any) -> None:
    monkeypatch.setattr(reading, "_idle", [])
    task = asyncio.create_task(read_document("deep.html", b"<div>" * 400_000))
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    began = time.monotonic()
    assert isinstance(await read_document("a.md", b"# A"), Reading)
    assert time.monotonic() - began < 5 and reading._idle
