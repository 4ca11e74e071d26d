"""API keys on the wire."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from api.schemas import Body, Page, Text, Time, View, example

RoleName = Literal["admin", "editor", "viewer", "predictor"]


class NewKey(Body):
    model_config = example(name="the shop's web site", role="predictor", expires_at="2030-01-01T00:00:00Z")

    name: Text = Field(min_length=1, max_length=100)
    role: RoleName
    expires_at: Annotated[AwareDatetime, Field(strict=False)] | None = Field(
        None, description="RFC 3339; never when left out."
    )


class Key(View):
    id: str
    name: str
    role: RoleName
    hint: str = Field(description="The first characters of the secret, to tell keys apart.")
    state: Literal["active", "expired", "revoked"]
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None
    last_used_at: Time | None


class KeyWithSecret(Key):
    secret: str = Field(description="Shown now and never again.")


class KeyPage(Page[Key]):
    pass
