"""A real OpenID provider (canaille) as a process of its own: python -m tests.identity.provider PORT ALGORITHM [CALLBACK].

One person, `anna`, and two clients: `console`, whose tokens are meant for it and for `mission-root`, and `elsewhere`.
"""

import sys

PASSWORD = "anna's long password"
SECRET = "secret-of-the-client"
CALLBACK = "http://127.0.0.1:1/callback"


def serve(port: int, algorithm: str, callback: str = CALLBACK) -> None:
    from canaille import create_app
    from canaille.app import models
    from canaille.backends import Backend
    from joserfc.jwk import OKPKey, RSAKey
    from werkzeug.serving import make_server

    rsa, okp = RSAKey.generate_key(2048, auto_kid=True), OKPKey.generate_key("Ed25519", auto_kid=True)
    app = create_app(
        {
            "SECRET_KEY": "of-a-test",
            "SERVER_NAME": f"127.0.0.1:{port}",
            "PREFERRED_URL_SCHEME": "http",
            "CANAILLE": {"DATABASE": "memory", "SMTP": None},
            "CANAILLE_OIDC": {"ACTIVE_JWKS": [key.as_dict(private=True) for key in (rsa, okp)]},
        }
    )
    with app.app_context(), Backend.instance.session():
        anna = models.User(formatted_name="Anna", family_name="A", user_name="anna", emails=["anna@example.com"])
        anna.password = PASSWORD
        Backend.instance.save(anna)

        def client(name: str, *audience: object) -> object:
            made = models.Client(
                client_id=name, client_secret=SECRET, client_name=name, client_uri="http://127.0.0.1:1",
                redirect_uris=[callback], grant_types=["authorization_code"], response_types=["code"],
                scope=["openid", "profile"], token_endpoint_auth_method="client_secret_basic",
                id_token_signed_response_alg=algorithm,
            )  # fmt: skip
            Backend.instance.save(made)
            made.audience = [made, *audience]
            Backend.instance.save(made)
            return made

        client("console", client("mission-root"))
        client("elsewhere")
    server = make_server("127.0.0.1", port, app, threaded=True)
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]), *sys.argv[2:])
