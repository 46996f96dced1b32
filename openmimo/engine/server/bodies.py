"""Bodies of /v1/completions and /v1/chat/completions: what may stand in them, and one clear line for what may not.

Types are strict ("5" is no number), there is no NaN, and a field that is not known is refused with the nearest one
that is. A field of OpenAI's that asks for something this server cannot do is accepted where its value asks for nothing
(`presence_penalty: 0`) and refused otherwise. null is the same as leaving a field out.

A field's description completes "must be ...": it is the OpenAPI description's text and the error message's.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from openmimo.config import nearest
from openmimo.engine.server.errors import Refusal

MAX_CHOICES = 128
"""Choices of one call: prompts times n."""
MAX_MESSAGES = 1024
"""Of a chat: rendering one takes time with the square of their number."""
MAX_NESTING = 32
"""Of a body: no field needs more than 4."""
SEED_LIMIT = 2**63

First = Field(fail_fast=True)
"""A list's first mistake is enough: a body of nothing but mistakes must not take seconds and gigabytes."""
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], First]
SomeTokenIds = Annotated[TokenIds, Field(min_length=1)]
Text = Annotated[str, Field(min_length=1)]
Zero = Annotated[float, Field(ge=0, le=0)]


class Strict(BaseModel):
    """Refuses unknown fields, wrong types, NaN and infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Strict):
    """Options of a streamed answer."""

    include_usage: bool | None = Field(None, description="true or false: a last chunk with the usage")
    include_obfuscation: Literal[False] | None = Field(None, description="false: chunks are never padded")


class ContentPart(Strict):
    """A part of a message: text, nothing else."""

    type: Literal["text"] = Field(description="'text': this model reads nothing else")
    text: str = Field(description="a text")


class ChatMessage(Strict):
    """One turn. Beyond role and content, what an answer's own message may carry back empty."""

    role: Literal["system", "developer", "user", "assistant"] = Field(
        description="'system', 'developer' (the same as system), 'user' or 'assistant'; there are no tools"
    )
    content: str | Annotated[list[ContentPart], First] = Field(
        description='a text, or a list of {"type": "text", "text": "..."}'
    )
    name: None = Field(None, description="left out: the chat format has no names")
    refusal: None = Field(None, description="left out")
    audio: None = Field(None, description="left out: this model reads text only")
    function_call: None = Field(None, description="left out: there are no tools")
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = Field(
        None, description="left out or empty: there are no tools"
    )
    annotations: Annotated[list[Any], Field(max_length=0)] | None = Field(None, description="left out or empty")

    @property
    def text(self) -> str:
        """The parts of the content, joined."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ResponseFormat(Strict):
    """Plain text is the only format."""

    type: Literal["text"] = Field(description="'text': answers are not bound to a format")


class Body(Strict):
    """What both endpoints take."""

    model: str | None = Field(None, description="the name that /v1/models gives")
    max_tokens: Annotated[int, Field(ge=0)] | None = Field(
        None, description="an integer of 0 or more: tokens generated at most"
    )
    temperature: Annotated[float, Field(ge=0, le=100)] | None = Field(
        None, description="a number from 0 (greedy; so is anything below 0.001) to 100; default 1"
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="a number above 0 and at most 1; default 1"
    )
    top_k: Annotated[int, Field(ge=-1)] | None = Field(
        None, description="an integer of 1 or more: the likeliest tokens to choose from; 0 or -1, the default: all"
    )
    min_p: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="a number from 0 (off, the default) to 1: tokens less likely than this times the likeliest go"
    )
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = Field(
        None, description=f"an integer from 1, the default, to {MAX_CHOICES}: choices of every prompt"
    )
    seed: Annotated[int, Field(ge=-SEED_LIMIT, lt=SEED_LIMIT)] | None = Field(
        None, description="an integer of 64 bits; left out: another text every time"
    )
    stop: Text | Annotated[list[Text], First, Field(max_length=16)] | None = Field(
        None, description="a text, or a list of at most 16 texts, none empty"
    )
    stop_token_ids: Annotated[TokenIds, Field(max_length=64)] | None = Field(
        None, description="a list of at most 64 token ids that end the text too"
    )
    stream: bool | None = Field(None, description="true or false; default false")
    stream_options: StreamOptions | None = Field(None, description='an object such as {"include_usage": true}')
    user: str | None = Field(None, description="a text; it is not used")
    presence_penalty: Zero | None = Field(None, description="0: penalties are not supported")
    frequency_penalty: Zero | None = Field(None, description="0: penalties are not supported")
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = Field(
        None, description="empty: biases are not supported"
    )

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop texts."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def num_choices(self) -> int:
        """Of every prompt."""
        return self.n or 1

    @property
    def num_top_logprobs(self) -> int | None:
        """Alternatives of every token; None: no log-probabilities at all."""
        raise NotImplementedError

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionBody(Body):
    """Body of /v1/completions."""

    prompt: (
        Text
        | SomeTokenIds
        | Annotated[list[Text], First, Field(min_length=1, max_length=MAX_CHOICES)]
        | Annotated[list[SomeTokenIds], First, Field(min_length=1, max_length=MAX_CHOICES)]
    ) = Field(description=f"a text, a list of token ids, or a list of at most {MAX_CHOICES} of either, none empty")
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(
        None, description="an integer from 0 to 20: alternatives whose log-probabilities come with every token"
    )
    echo: bool | None = Field(None, description="true or false: the text begins with the prompt; default false")
    best_of: Annotated[int, Field(ge=1, le=1)] | None = Field(None, description="1: choosing is not supported")
    suffix: Annotated[str, Field(max_length=0)] | None = Field(None, description="empty: filling in is not supported")

    @property
    def num_top_logprobs(self) -> int | None:
        """Alternatives of every token; None: no log-probabilities at all."""
        return self.logprobs


class ChatBody(Body):
    """Body of /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], First, Field(min_length=1, max_length=MAX_MESSAGES)] = Field(
        description=f'a list of 1 to {MAX_MESSAGES} messages such as {{"role": "user", "content": "Hello"}}'
    )
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(
        None, description="an integer of 1 or more: tokens generated at most; default what the context leaves"
    )
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = Field(
        None, description="an integer of 1 or more; wins over max_tokens"
    )
    logprobs: bool | None = Field(None, description="true or false: log-probabilities of the tokens; default false")
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(
        None, description="an integer from 0 to 20, beside logprobs true: alternatives of every token"
    )
    response_format: ResponseFormat | None = Field(None, description='{"type": "text"}: there are no other formats')
    tools: Annotated[list[Any], Field(max_length=0)] | None = Field(None, description="empty: there are no tools")
    tool_choice: Literal["none", "auto"] | None = Field(None, description="'none' or 'auto': there are no tools")
    parallel_tool_calls: bool | None = Field(None, description="true or false; it is not used: there are no tools")
    functions: Annotated[list[Any], Field(max_length=0)] | None = Field(None, description="empty: there are no tools")
    function_call: Literal["none", "auto"] | None = Field(None, description="'none' or 'auto': there are no tools")
    modalities: Annotated[list[Literal["text"]], First, Field(max_length=1)] | None = Field(
        None, description='["text"]: answers are text'
    )
    audio: None = Field(None, description="left out: answers are text")
    prediction: None = Field(None, description="left out: predicted outputs are not supported; the model drafts itself")
    reasoning_effort: None = Field(None, description="left out: the model reasons as long as it does")
    verbosity: Literal["medium"] | None = Field(None, description="'medium': it cannot be chosen")
    web_search_options: None = Field(None, description="left out: the model cannot search")
    store: Literal[False] | None = Field(None, description="false: nothing is stored")
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = Field(
        None, description="an object of at most 16 texts; it is not used"
    )
    service_tier: Literal["auto", "default"] | None = Field(None, description="'auto' or 'default': there is one tier")
    safety_identifier: str | None = Field(None, description="a text; it is not used")
    prompt_cache_key: str | None = Field(None, description="a text; it is not used: equal prefixes are always shared")

    @property
    def num_top_logprobs(self) -> int | None:
        """Alternatives of every token; None: no log-probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None


B = TypeVar("B", bound=Body)


def parse(kind: type[B], data: bytes) -> B:
    """A request's body.

    Raises:
        Refusal: with status 400, naming the field at fault.
    """
    try:
        found = json.loads(data, parse_constant=_no_number, parse_float=_number)
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except RecursionError as error:
        raise Refusal(400, "the body is nested too deeply; no field needs more than 4 levels") from error
    except UnicodeError as error:
        raise Refusal(400, f"the body is no UTF-8 text: {error}") from error
    except ValueError as error:
        raise Refusal(400, f"the body is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise Refusal(400, f"the body must be a JSON object, got {_short(found)}")
    if _depth(found) > MAX_NESTING:
        raise Refusal(400, f"the body is nested deeper than {MAX_NESTING} levels; no field needs more than 4")
    if len(found) > len(kind.model_fields):
        unknown = next(name for name in found if name not in kind.model_fields)
        found = {unknown: found[unknown]}
    try:
        body = kind.model_validate(found)
    except ValidationError as error:
        raise _refusal(kind, found, error) from error
    if isinstance(body, ChatBody) and body.top_logprobs and not body.logprobs:
        raise Refusal(400, "top_logprobs needs logprobs: true beside it", param="top_logprobs")
    return body


def _refusal(kind: type[Body], found: dict[str, Any], error: ValidationError) -> Refusal:
    """The first mistake, as one line that says what would be right."""
    details = error.errors(include_url=False)
    # A wrong `type` explains more than the fields beside it, and an unknown field more than the one it stands for.
    kinds = [d for d in details if d["loc"][-1] == "type"] + [d for d in details if d["type"] == "extra_forbidden"]
    first = [*kinds, *details][0]
    model: type[BaseModel] | None = kind
    value: Any = found
    path, field = "", None
    for step in first["loc"]:
        if isinstance(step, int):
            if not isinstance(value, list):
                break
            path, value = f"{path}[{step}]", value[step]
        elif model and step in model.model_fields:
            path, field = _join(path, step), model.model_fields[step]
            if step not in value:
                return Refusal(400, f"{path} is missing: it must be {field.description}", param=path)
            value, model = value[step], _below(field.annotation)
        elif model and first["type"] == "extra_forbidden" and isinstance(value, dict) and step in value:
            close = _join(path, nearest(step[:80], model.model_fields))
            path = _join(path, step if len(step) <= 80 else f"{step[:77]}...")
            return Refusal(400, f"unknown field {path!r}; the nearest is {close!r}", param=path)
        # Anything else names a branch of a union, which is no part of the path.
    assert field is not None, f"every other mistake is in a known field, got {first['loc']}"
    return Refusal(400, f"{path} must be {field.description}, got {_short(value)}", param=path)


def _below(annotation: Any) -> type[BaseModel] | None:
    """The model inside an annotation such as `list[ChatMessage] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in getattr(annotation, "__args__", ()) if (model := _below(part))), None)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _short(value: Any) -> str:
    """The value as JSON, its middle left out when long."""
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a number of more than 30 digits"
    if isinstance(value, (list, dict)) and len(value) > 20:
        return f"a {'list' if isinstance(value, list) else 'object'} of {len(value)}"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:40]} ... {text[-20:]}"


def _depth(value: Any) -> int:
    """Levels of lists and objects in a JSON value."""
    depth, level = 0, [value]
    while level := [v for v in level if isinstance(v, (list, dict)) and v]:
        depth += 1
        level = [below for v in level for below in (v.values() if isinstance(v, dict) else v)]
        if depth > MAX_NESTING:
            break
    return depth


def _number(text: str) -> int | float:
    """In JSON 16.0 is the integer 16."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")
