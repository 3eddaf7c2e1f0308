"""OpenID identity tokens of service accounts, which services on Google Cloud show to each other."""

from collections.abc import Mapping
from typing import Any

from google.auth import jwt
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request
from google.oauth2 import id_token

from mbta_assets.gcp.errors import CloudError


def fetch_identity_token(audience: str) -> str:
    """Return a token for an audience, from the metadata server or a key file. Raises CloudError."""
    try:
        return id_token.fetch_id_token(Request(), audience)
    except GoogleAuthError as error:
        raise CloudError(f"There is no identity token for {audience}: {error}") from error


def verify_identity_token(token: str, audience: str) -> Mapping[str, Any]:
    """Return the claims of a token that Google has signed for an audience. Raises CloudError for any other token."""
    try:
        return id_token.verify_oauth2_token(token, Request(), audience)
    except (ValueError, GoogleAuthError) as error:
        raise CloudError(str(error)) from error


def decode_identity_token(token: str) -> Mapping[str, Any]:
    """Return the claims of a token whose signature is verified elsewhere. Raises CloudError if it is no token."""
    try:
        return jwt.decode(token, verify=False)
    except (ValueError, GoogleAuthError) as error:
        raise CloudError(str(error)) from error
