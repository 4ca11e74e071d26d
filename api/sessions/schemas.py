"""Browsers' sessions on the wire."""

from pydantic import Field

from api.keys.schemas import RoleName
from api.schemas import Body, Text, Time, View, example


class SignIn(Body):
    model_config = example(key="nw_…")

    key: Text = Field(min_length=1, max_length=100, description="The secret of an API key.")


class Identity(View):
    """Who a request comes from."""

    key: str = Field(description="Id of the API key.")
    name: str
    role: RoleName
    expires_at: Time | None = Field(description="When the session, or the key itself, opens nothing any more.")
