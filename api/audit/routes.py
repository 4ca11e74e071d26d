"""Who changed what, when."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy import select

from api.deps import Admin, Work
from api.routing import Route
from api.schemas import Page, PageSize, PageToken, Time, View
from store.pages import page
from store.tables import AuditEntry

router = APIRouter(prefix="/v1/audit", tags=["operation"], route_class=Route)


class AuditLine(View):
    number: int
    at: Time
    key: str | None
    action: str
    target: str
    details: dict[str, Any]


class AuditPage(Page[AuditLine]):
    pass


@router.get("")
def list_audit(
    work: Work,
    _: Admin,
    target: Annotated[
        str | None, Query(pattern="^[a-z]{2}_[0-9a-f]{32}$", description="Only changes of what has this id.")
    ] = None,
    page_size: PageSize = 50,
    page_token: PageToken = None,
) -> AuditPage:
    """Every change that was made through the API, newest first."""
    statement = select(AuditEntry)
    if target is not None:
        statement = statement.where(AuditEntry.target == target)
    rows, following = page(work, statement, AuditEntry.number, page_size, page_token, newest_first=True)
    items = [
        AuditLine(
            number=row.number, at=row.at, key=row.api_key_id, action=row.action, target=row.target, details=row.details
        )
        for row in rows
    ]
    return AuditPage(items=items, next_page_token=following)
