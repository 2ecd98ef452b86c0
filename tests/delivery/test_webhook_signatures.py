"""Standard Webhooks: the published example, somebody else's implementation, and headers nobody would send kindly."""

import base64
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from app.delivery.webhooks.signatures import NotGenuine, Secret, headers, make, public_text, verify


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


BODY = b'{"type":"mission.completed","data":{"n":1}}'


def test_the_published_example() -> None:
    secret = Secret("v1", base64.b64decode("plJ3nmyCDGBKInavdOK15jsl"))
    sent = headers(
        "msg_loFOjxBNrRLzqYUf",
        datetime.fromtimestamp(1731705121, UTC),
        b'{"event_type":"ping","data":{"success":true}}',
        [secret],
    )
    assert sent["webhook-signature"] == "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="
    assert sent["webhook-timestamp"] == "1731705121"


def test_what_we_sign_is_genuine_to_the_published_library_and_the_other_way_round() -> None:
    secret, old = make("v1"), make("v1")
    sent = headers("fact_1-2", now(), BODY, [secret, old])
    for one in (secret, old):
        assert Webhook(one.text).verify(BODY, sent) == {"type": "mission.completed", "data": {"n": 1}}
    moment = now()
    theirs = {
        "webhook-id": "m",
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(secret.text).sign("m", moment, BODY.decode()),
    }
    assert verify(theirs, BODY, [secret.text]) == "m"


def test_an_ed25519_signature_fits_the_public_key_alone() -> None:
    secret = make("v1a")
    assert secret.public is not None
    sent = headers("fact_1-2", now(), BODY, [secret])
    said = f"fact_1-2.{sent['webhook-timestamp']}.".encode() + BODY
    Ed25519PublicKey.from_public_bytes(secret.public).verify(
        base64.b64decode(sent["webhook-signature"].removeprefix("v1a,")), said
    )
    assert verify(sent, BODY, [public_text(secret.public)]) == "fact_1-2"
    with pytest.raises(NotGenuine):
        verify(sent, BODY, [make("v1").text])


@pytest.mark.parametrize(
    "change", ["webhook-id", "webhook-timestamp", "webhook-signature", "body", "key", "late", "early"]
)
def test_anything_changed_is_not_genuine(change: str) -> None:
    secret = make("v1")
    moment = now()
    at = moment + {"late": timedelta(seconds=-301), "early": timedelta(seconds=301)}.get(change, timedelta())
    sent, body, key = headers("fact_1-2", at, BODY, [secret]), BODY, secret.text
    if change == "body":
        body += b" "
    elif change == "key":
        key = make("v1").text
    elif change == "webhook-timestamp":
        sent[change] = str(int(sent[change]) + 1)
    elif change == "webhook-signature":
        sent[change] = "v1," + base64.b64encode(bytes(32)).decode()
    elif change == "webhook-id":
        sent[change] += "x"
    with pytest.raises(NotGenuine):
        verify(sent, body, [key], now=moment)


hostile = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        [
            "v1",
            "v1,",
            ",",
            " , ,",
            "v1,====",
            "v1,é",
            "v1a," + "A" * 88,
            "v1a,AAAA",
            "v1," + "A" * 10_000,
            "v1 v1 v1",
            "\ud800",
        ]
    ),
)


@given(hostile, hostile, hostile, st.binary(max_size=40))
def test_hostile_headers_are_only_ever_not_genuine(message: str, stamp: str, signature: str, body: bytes) -> None:
    key = make("v1a").public
    assert key is not None
    for timestamp in (stamp, str(int(now().timestamp())), "9" * 400, "-1", "NaN", "٣"):
        sent = {"webhook-id": message, "webhook-timestamp": timestamp, "webhook-signature": signature}
        with pytest.raises(NotGenuine):
            verify(sent, body, [make("v1").text, public_text(key)])


def test_a_secret_does_not_print_itself() -> None:
    secret = make("v1")
    assert secret.text not in repr(secret) and repr(secret.raw) not in repr(secret)
