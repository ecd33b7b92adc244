"""Do the tokens of other packages stay good, with the settings that the documentation shows?"""

import json
import subprocess
import sys
from functools import cache
from textwrap import dedent

import pytest
from starlette.testclient import TestClient

from .support.clients import bearer
from .support.documents import example

SECRET = "a secret that has thirty-two bytes or more"

# Each package makes its tokens in a process of its own: Django and Flask keep their settings for the whole process.
MAKERS = {
    "fastapi-users": """
        import asyncio, json
        from fastapi_users.authentication import JWTStrategy

        class User:
            id = "ada"

        access = asyncio.run(JWTStrategy("SECRET", lifetime_seconds=3600).write_token(User()))
        print(json.dumps({"access": access}))
    """,
    "flask-jwt-extended": f"""
        import json
        from flask import Flask
        from flask_jwt_extended import JWTManager, create_access_token, create_refresh_token

        app = Flask("orders")
        app.config["JWT_SECRET_KEY"] = "{SECRET}"
        JWTManager(app)
        with app.app_context():
            access = create_access_token("ada", additional_claims={{"roles": ["orders:read"]}})
            print(json.dumps({{"access": access, "refresh": create_refresh_token("ada")}}))
    """,
    "simplejwt": f"""
        import json
        import django
        from django.conf import settings

        settings.configure(SECRET_KEY="{SECRET}", INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"])
        django.setup()
        from rest_framework_simplejwt.tokens import AccessToken, RefreshToken

        class User:
            id = "ada"
            is_active = True

        access, refresh = (str(kind.for_user(User())) for kind in (AccessToken, RefreshToken))
        print(json.dumps({{"access": access, "refresh": refresh}}))
    """,
}


@cache
def made(package: str) -> dict[str, str]:
    """Tokens of a user "ada", made by the real ``package``."""
    program = [sys.executable, "-W", "ignore", "-c", dedent(MAKERS[package])]
    output = subprocess.run(program, capture_output=True, text=True, check=True, timeout=60).stdout
    tokens: dict[str, str] = json.loads(output)
    return tokens


def client(package: str) -> TestClient:
    return TestClient(example(f"docs/coming-from/{package}.rst", "JWTMiddleware")["app"])


@pytest.mark.parametrize("package", list(MAKERS))
def test_access_tokens_stay_good(package: str) -> None:
    # The apps of the pages have no routes: whoever gets through is not found.
    assert client(package).get("/", headers=bearer(made(package)["access"])).status_code == 404
    assert client(package).get("/").status_code == 401


@pytest.mark.parametrize("package", ["flask-jwt-extended", "simplejwt"])
def test_refresh_tokens_are_no_access_tokens(package: str) -> None:
    assert client(package).get("/", headers=bearer(made(package)["refresh"])).status_code == 401
