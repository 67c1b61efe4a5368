"""The endpoints for policies: what people ask of streams, by pattern or one by one."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request, Response

from gatewatch.service.doors.door import STREAM_NAME
from gatewatch.service.errors import InvalidPolicies
from gatewatch.service.http.openapi import AWAY, NO_BODY, OF_A_STREAM, OTHER_METHOD, found, problem_with, ref
from gatewatch.service.http.parts import caller_of, key_of, number_seen, parts_of, sent_as, tenant_of
from gatewatch.service.policies.policy import Policies, Policy, PolicyDocument

router = APIRouter()

POLICIES_BYTES: Final = 8 * 2**20
"""Of a body with policies: as many patterns and streams as there may be."""

_STREAM_PATH = Path(description="the stream's name", pattern=f"^{STREAM_NAME.pattern}$", max_length=128)
_TAGGED: Final = {"ETag": {"required": True, "schema": {"type": "string"}}}
_FOUND: Final = {**found("The policies, and who wrote them", {"type": "object"}), "headers": _TAGGED}
_OF_STREAM: Final = found("`asked` of the stream by itself, and `policy`, of all that fits it", {"type": "object"})


@router.get(
    "/v1/policies",
    summary="What is asked of streams",
    response_model=None,
    responses={200: _FOUND, 405: OTHER_METHOD, 503: AWAY},
)
async def get_policies(request: Request, response: Response) -> dict[str, Any]:
    """`policies` by pattern, in order, and `streams` with one of their own; the ETag is for If-Match of a change."""
    return _shown(await parts_of(request).policies.newest(tenant_of(request)), response)


@router.put(
    "/v1/policies",
    summary="Change what is asked of streams",
    response_model=None,
    responses={
        200: _FOUND,
        **NO_BODY,
        405: OTHER_METHOD,
        412: problem_with("Somebody else changed them meanwhile: look at them, and do it again"),
        422: problem_with("Not policies; all is as it was"),
        503: AWAY,
    },
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": ref("Policies")}}}},
)
async def put_policies(request: Request, response: Response) -> dict[str, Any]:
    """All of them at once. Every process goes by them within two seconds."""
    asked = await sent_as(request, Policies, InvalidPolicies, POLICIES_BYTES)
    policies, seen = parts_of(request).policies, number_seen(request)
    return _shown(await policies.put(tenant_of(request), asked, caller_of(request), seen), response)


@router.get(
    "/v1/streams/{stream}/policy",
    summary="What is asked of a stream",
    response_model=None,
    responses={200: _OF_STREAM, **OF_A_STREAM},
)
async def get_policy(request: Request, stream: Annotated[str, _STREAM_PATH]) -> dict[str, Any]:
    """`asked` of it by itself, and `policy`: what that comes to with the patterns that fit its name."""
    policies, key = parts_of(request).policies, key_of(request, stream)
    document = await policies.newest(key.tenant)
    own = document.asked.streams.get(stream, Policy())
    return {
        "stream": stream,
        "asked": own.model_dump(mode="json", exclude_unset=True),
        "policy": policies.of(key).model_dump(mode="json", exclude_unset=True),
    }


@router.put(
    "/v1/streams/{stream}/policy",
    summary="Change what is asked of a stream",
    response_model=None,
    responses={200: _OF_STREAM, **NO_BODY, **OF_A_STREAM},
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": ref("Policy")}}}},
)
async def put_policy(request: Request, stream: Annotated[str, _STREAM_PATH]) -> dict[str, Any]:
    """Of it by itself, whether or not it has sent a reading; an empty object asks nothing."""
    policy = await sent_as(request, Policy, InvalidPolicies)
    await parts_of(request).policies.put_one(key_of(request, stream), policy, caller_of(request))
    return await get_policy(request, stream)


def _shown(document: PolicyDocument, response: Response) -> dict[str, Any]:
    response.headers["ETag"] = f'"{document.number}"'
    asked = document.asked.model_dump(mode="json", exclude_unset=True)
    return {"number": document.number, "at": document.at, "by": document.by, "policies": [], "streams": {}, **asked}
