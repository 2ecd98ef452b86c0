"""What the OpenID Connect code flow says in requests and ID tokens, by Authlib's parts of it that call nobody."""

import jwt
from authlib.common.errors import AuthlibBaseError
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri as ask
from authlib.oauth2.rfc7636 import create_s256_code_challenge as challenge
from authlib.oidc.core import CodeIDToken
from joserfc.errors import JoseError

LEEWAY_S = 30
ERRORS = (AuthlibBaseError, JoseError, jwt.PyJWTError)

__all__ = ["ERRORS", "ask", "challenge", "check"]


def check(id_token: str, issuer: str, client_id: str, nonce: str) -> None:
    """Whether an ID token, straight from the provider, answers what was asked. Raises one of ERRORS, or ValueError.

    Its signature is not looked at here: whoever makes a session of the token does that.
    """
    claims = jwt.decode(id_token, options={"verify_signature": False})
    claims.setdefault(
        "azp", client_id
    )  # providers leave it out; the registrar holds it against OIDC_AUTHORIZED_PARTIES
    wanted = {
        "iss": {"essential": True, "value": issuer},
        "aud": {"essential": True, "value": client_id},
        "nonce": {"essential": True},
    }
    said = CodeIDToken(claims, jwt.get_unverified_header(id_token), wanted, {"nonce": nonce, "client_id": client_id})
    said.validate(leeway=LEEWAY_S)
