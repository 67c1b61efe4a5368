"""The endpoints for models and for the rules that give them to streams."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request, Response

from gatewatch.models.artefact.versions import MODEL_NAME, Change, Model
from gatewatch.service.errors import InvalidRequest, InvalidRules, NoRepository
from gatewatch.service.http.model_requests import Promotion, Rollback, ShadowOf
from gatewatch.service.http.openapi import AWAY, NO_BODY, OTHER_METHOD, found, problem_with, ref
from gatewatch.service.http.parts import caller_of, number_seen, parts_of, replied, sent_as
from gatewatch.service.serving.administration import Administration
from gatewatch.service.serving.rules import Assignment, Rules

router = APIRouter()

RULES_BYTES: Final = 4 * 2**20
"""Of a body with rules: as many rules and pins as there may be."""

_MODEL_PATH = Path(description="the model's name", pattern=f"^{MODEL_NAME.pattern}$")
_OUTDATED = problem_with("Somebody else changed it meanwhile: look at it, and do it again")
_UNKNOWN = problem_with("No such model, version or alias; or no repository of models")
_UNUSABLE = problem_with("Not what is taken, or a version that cannot be served; all is as it was")
_TAGGED: Final = {"ETag": {"required": True, "schema": {"type": "string"}}}


_OF_A_MODEL: Final[dict[int | str, dict[str, Any]]] = {
    404: _UNKNOWN,
    405: OTHER_METHOD,
    503: problem_with("The repository or Redis is away; the request may be sent again", "Retry-After"),
}
_MOVED: Final[dict[int | str, dict[str, Any]]] = {
    200: {**found("What was done, and how the model stands since", {"type": "object"}), "headers": _TAGGED},
    **NO_BODY,
    **_OF_A_MODEL,
    412: _OUTDATED,
    422: _UNUSABLE,
}
_RULES_FOUND: Final = {**found("The rules, and the version of each model", {"type": "object"}), "headers": _TAGGED}


@router.get(
    "/v1/models",
    summary="All models",
    response_model=None,
    responses={
        200: found("The models, in the order of their names", {"type": "object"}),
        405: OTHER_METHOD,
        503: _OF_A_MODEL[503],
    },
)
async def list_models(request: Request) -> dict[str, Any]:
    """The model of GATEWATCH_MODEL as `default`, and those of the repository with the versions their aliases mean."""
    parts = parts_of(request)
    try:
        models = [_summary(change) for change in await parts.models.administration.models()]
    except NoRepository:
        models = []
    return {"default": parts.registry.default.name, "models": models}


@router.get(
    "/v1/models/{model}",
    summary="A model",
    response_model=None,
    responses={
        200: {**found("Its versions and aliases", {"type": "object"}), "headers": _TAGGED},
        **_OF_A_MODEL,
        422: _UNUSABLE,
    },
)
async def get_model(request: Request, response: Response, model: Annotated[str, _MODEL_PATH]) -> dict[str, Any]:
    """Its versions, the version of each alias and those before; the ETag is for If-Match of a promotion."""
    known = await _administration(request).model(model)
    response.headers["ETag"] = f'"{known.revision}"'
    return _model(known)


@router.get(
    "/v1/models/{model}/versions",
    summary="A model's versions",
    response_model=None,
    responses={
        200: found("The versions, the first one first", {"type": "array", "items": {"type": "object"}}),
        **_OF_A_MODEL,
        422: _UNUSABLE,
    },
)
async def list_versions(request: Request, model: Annotated[str, _MODEL_PATH]) -> list[dict[str, Any]]:
    """Number, digest as replies carry it, SHA-256, and by whom and when each was added."""
    versions: list[dict[str, Any]] = _model(await _administration(request).model(model))["versions"]
    return versions


@router.get(
    "/v1/models/{model}/history",
    summary="What was done to a model",
    response_model=None,
    responses={
        200: found("The changes, the last one first", {"type": "array", "items": {"type": "object"}}),
        **_OF_A_MODEL,
        422: _UNUSABLE,
    },
)
async def list_changes(
    request: Request,
    model: Annotated[str, _MODEL_PATH],
    limit: Annotated[int, Query(ge=1, le=1000, description="most changes in the reply")] = 100,
) -> list[dict[str, Any]]:
    """Who added, promoted and rolled back what, and when."""
    return [_change(change) for change in await _administration(request).history(model, limit)]


@router.post(
    "/v1/models/{model}/promote",
    summary="Point an alias to a version",
    response_model=None,
    responses={**_MOVED, 409: problem_with("Its last report says that it is not better, or there is none")},
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": ref("Promotion")}}}},
)
async def promote_model(request: Request, response: Response, model: Annotated[str, _MODEL_PATH]) -> dict[str, Any]:
    """The version is loaded and verified first; streams that follow the alias move over with their next readings."""
    sent = await sent_as(request, Promotion, InvalidRequest)
    change = await _administration(request).promote(
        model,
        str(sent.version),
        sent.alias,
        caller_of(request),
        sent.note,
        number_seen(request),
        sent.other_channels,
        sent.if_better,
    )
    response.headers["ETag"] = f'"{change.after.revision}"'
    return _change(change)


@router.post(
    "/v1/models/{model}/rollback",
    summary="Point an alias to where it pointed before",
    response_model=None,
    responses=_MOVED,
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": ref("Rollback")}}}},
)
async def rollback_model(request: Request, response: Response, model: Annotated[str, _MODEL_PATH]) -> dict[str, Any]:
    """The same as a promotion of the version before."""
    sent = await sent_as(request, Rollback, InvalidRequest)
    by, seen = caller_of(request), number_seen(request)
    change = await _administration(request).rollback(model, sent.alias, by, sent.note, seen)
    response.headers["ETag"] = f'"{change.after.revision}"'
    return _change(change)


_SHADOW: Final = found("The shadow, and what it came to so far, over all processes", {"type": "object"})
_NO_SHADOW: Final = {**_OF_A_MODEL, 404: problem_with("The model has no shadow; or no repository of models")}


@router.get(
    "/v1/models/{model}/shadow",
    summary="A model's shadow",
    response_model=None,
    responses={200: _SHADOW, **_NO_SHADOW, 422: _UNUSABLE},
)
async def get_shadow(request: Request, model: Annotated[str, _MODEL_PATH]) -> dict[str, Any]:
    """Which version scores beside the model, and what both said of the same readings."""
    return await parts_of(request).models.shadows.look(model)


@router.put(
    "/v1/models/{model}/shadow",
    summary="Have a version score beside a model",
    response_model=None,
    responses={200: _SHADOW, **NO_BODY, **_OF_A_MODEL, 422: _UNUSABLE},
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": ref("ShadowOf")}}}},
)
async def put_shadow(request: Request, model: Annotated[str, _MODEL_PATH]) -> dict[str, Any]:
    """A share of the model's streams is scored by the version too, which is only counted; its figures begin at 0."""
    sent = await sent_as(request, ShadowOf, InvalidRequest)
    return await parts_of(request).models.shadows.begin(model, str(sent.version), sent.share, caller_of(request))


@router.delete(
    "/v1/models/{model}/shadow",
    summary="End a model's shadow",
    response_model=None,
    responses={200: _SHADOW, **_NO_SHADOW, 422: _UNUSABLE},
)
async def delete_shadow(request: Request, model: Annotated[str, _MODEL_PATH]) -> dict[str, Any]:
    """Replies what it came to; afterwards nobody can ask for that any more."""
    return await parts_of(request).models.shadows.end(model, caller_of(request))


@router.get(
    "/v1/rules",
    summary="Which model each stream has",
    response_model=None,
    responses={200: _RULES_FOUND, 405: OTHER_METHOD, 503: AWAY},
)
async def get_rules(request: Request) -> Response:
    """Pins of streams, rules in order, and the version that each model named in them has now."""
    return await _rules(await _administration(request).rules())


@router.put(
    "/v1/rules",
    summary="Change which model each stream has",
    response_model=None,
    responses={
        200: _RULES_FOUND,
        **NO_BODY,
        404: _UNKNOWN,
        405: OTHER_METHOD,
        412: _OUTDATED,
        422: problem_with("Not rules, or a model that is not there or cannot be served; all is as it was"),
        503: _OF_A_MODEL[503],
    },
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": ref("Rules")}}}},
)
async def put_rules(request: Request) -> Response:
    """All rules and pins at once; `warnings` names patterns that fit no stream yet."""
    rules = await sent_as(request, Rules, InvalidRules, RULES_BYTES)
    assignment, warnings = await _administration(request).put_rules(rules, caller_of(request), number_seen(request))
    return await _rules(assignment, {"warnings": warnings})


def _administration(request: Request) -> Administration:
    return parts_of(request).models.administration


def _summary(change: Change) -> dict[str, Any]:
    model = change.after
    return {
        "model": model.model,
        "revision": model.revision,
        "versions": len(model.versions),
        "aliases": {alias: target.version for alias, target in sorted(model.aliases.items())},
        "changed_at": change.at,
        "changed_by": change.by,
    }


def _model(model: Model) -> dict[str, Any]:
    return {
        "model": model.model,
        "revision": model.revision,
        "aliases": {alias: target.model_dump(include={"version", "before"}) for alias, target in model.aliases.items()},
        "versions": [{**version.model_dump(), "digest": version.digest} for version in model.versions],
    }


def _change(change: Change) -> dict[str, Any]:
    return {
        "model": change.after.model,
        "revision": change.after.revision,
        **change.model_dump(exclude={"after", "format"}),
    }


async def _rules(assignment: Assignment, more: Mapping[str, Any] = MappingProxyType({})) -> Response:
    def shown() -> dict[str, Any]:
        return {
            "number": assignment.number,
            **assignment.rules.model_dump(),
            "versions": {
                name: {"version": chosen.version, "digest": chosen.digest.hex()}
                for name, chosen in sorted(assignment.versions.items())
            },
            "changed_at": assignment.at or None,
            "changed_by": assignment.by or None,
            **more,
        }

    return await replied(shown, {"ETag": f'"{assignment.number}"'})
