"""The endpoint of streams that are of little use: silent, noisy, stuck, constant, or with a channel that stays away."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from gatewatch.service.http.openapi import AWAY, OTHER_METHOD, found, problem_with, ref
from gatewatch.service.http.parts import parts_of, replied, tenant_of
from gatewatch.service.incidents.conditions import Condition

router = APIRouter()


@router.get(
    "/v1/conditions",
    summary="Streams that are silent, noisy, stuck or constant, and why",
    response_model=None,
    responses={
        200: found("One page of conditions", ref("ConditionPage")),
        405: OTHER_METHOD,
        422: problem_with("Not a search that is understood"),
        503: AWAY,
    },
)
async def list_conditions(
    request: Request,
    condition: Annotated[Condition | None, Query(description="which one; all if not given")] = None,
    match: Annotated[str, Query(max_length=256, description="a pattern of names, * for anything")] = "",
    after: Annotated[str, Query(max_length=128, description="`next` of the page before")] = "",
    limit: Annotated[int, Query(ge=1, le=500, description="about the most conditions in the reply")] = 100,
) -> Response:
    """By the names of streams, page by page: `conditions` and `next` (null on the last page), which may not be full."""
    parts = parts_of(request)
    async with parts.store.reading.of(tenant_of(request)):
        page = await parts.conditions.page(tenant_of(request), condition, match.replace("[", "[[]"), after, limit)
    return await replied(lambda: {"conditions": page[0], "next": page[1]})
