"""From settings to a request: what goes to litellm, key and address included, and what does not.

Pure but for the environment variables that `resolve_credentials` reads. What a provider *is* stands in
`provider_rows`, what litellm's route to it carries in `routes`, and what becomes of each setting is decided
in `options`. Nothing here imports litellm.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from agentless.credentials import Credentials, HiddenValues, check_key, hidden_url, look_up
from agentless.errors import ConfigError, CredentialError, Problem
from agentless.frozen import thaw
from agentless.llm.capabilities import Capabilities, resolve
from agentless.llm.messages import mark_cache
from agentless.llm.options import Dropped, dropped_options, settle
from agentless.llm.provider_rows import Provider, find_provider, provider_names, unknown_provider
from agentless.llm.routes import EFFORT, IGNORE_MAX_RETRIES, OPENAI_LIKE, find_route
from agentless.problems import did_you_mean
from agentless.settings import ModelSettings

__all__ = [
    "Dropped",
    "Provider",
    "build_request",
    "capabilities_of",
    "dropped_options",
    "normalised_url",
    "provider_of",
    "resolve_credentials",
]


def provider_of(settings: ModelSettings) -> Provider:
    """The row of the provider that the settings name.

    A provider that nobody knows is fine where the settings say how to reach it: by litellm's name
    (`custom_llm_provider`), or by an address, which then has to speak OpenAI's dialect.

    Raises:
        ConfigError: Nobody knows it, and the settings do not say.
    """
    row = find_provider(settings.provider, settings.name)
    if row is not None:
        return row
    name = settings.provider.strip().lower()
    if settings.custom_llm_provider is not None:
        return unknown_provider(name, route=settings.custom_llm_provider.lower())
    if settings.base_url is not None:
        return unknown_provider(name, route="openai")
    hint = did_you_mean(name, provider_names())
    text = (
        f'found "{settings.provider}", which is no provider that litellm knows{hint}; for a server that '
        "speaks OpenAI's dialect set base_url as well"
    )
    raise ConfigError.of([Problem("provider", text)])


def capabilities_of(settings: ModelSettings, *, key: str = "capabilities") -> Capabilities:
    """What the model of the settings can do, the settings' own word (`capabilities`, prices) included."""
    said = dict(settings.capabilities)
    for price in ("input_cost_per_token", "output_cost_per_token"):
        if getattr(settings, price) is not None:
            said[price] = getattr(settings, price)
    if settings.max_input_tokens is not None:
        said["max_input_tokens"] = settings.max_input_tokens
    return resolve(
        settings.provider,
        settings.name,
        said,
        custom_llm_provider=settings.custom_llm_provider,
        base_url=settings.base_url,
        key=key,
    )


def resolve_credentials(
    settings: ModelSettings,
    *,
    model: str,
    environ: Mapping[str, str] | None = None,
    also: Sequence[str] = (),
) -> Credentials:
    """Key, address and headers of a model, `env:` references and the provider's usual variables looked up.

    Args:
        settings: The model's settings.
        model: The config's name of the model, for errors.
        environ: Where variables are looked up; `os.environ` by default.
        also: Further variables that may hold the key, after the provider's own.

    Returns:
        The address is as the provider's route wants it; it is `None` for the service's usual one, and for
        the embedded server until that runs.

    Raises:
        ConfigError: Nobody knows the provider.
        CredentialError: A variable or a key is not set.
    """
    seller = provider_of(settings)
    given = settings.resolve(model=model, environ=environ)
    url = given.base_url or _first(seller.base_url_variables, environ)[1]
    return Credentials(
        api_key=given.api_key or _key(seller, model, also, environ),
        base_url=None if url is None else normalised_url(url, seller),
        api_version=given.api_version,
        extra_headers=given.extra_headers,
    )


def normalised_url(url: str, provider: Provider) -> str:
    """The address as litellm's route to this provider wants it, however the user wrote it.

    Measured on litellm 1.105.3: Anthropic and Ollama get `/v1/...` or `/api/...` appended, so a trailing
    `/v1` has to go; OpenAI's dialect needs it; DeepSeek's breaks on a trailing slash. An address with a path
    of its own (`/api/paas/v4`, `/openai/deployments/x`) is left alone.
    """
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    for ending in ("/v1/messages", "/chat/completions"):  # pasted from a service's documentation
        if path.endswith(ending):
            path = path.removesuffix(ending) + ("/v1" if ending == "/v1/messages" else "")
    if provider.strips_v1:
        path = path.removesuffix("/v1")
    elif not path and provider.url_path:
        path = provider.url_path
    return hidden_url(urlunsplit(parts._replace(path=path)))


def build_request(
    settings: ModelSettings,
    capabilities: Capabilities,
    messages: Sequence[Mapping[str, Any]],
    *,
    n: int = 1,
    stream: bool = False,
    prompt_cache: bool | None = None,
    credentials: Credentials | None = None,
) -> dict[str, Any]:
    """The keyword arguments of `litellm.acompletion` for one request: an allow-list, in fresh objects.

    What concerns the waiting (`timeout`, retries, `stream_options`) is added by the transport. `drop_params`
    is not sent: whatever litellm would drop has been left out here, aloud, so an `UnsupportedParamsError`
    stays one. More than four stop words reach the wire only with `litellm.disable_stop_sequence_limit`.

    Args:
        settings: The model's, per-call overrides included.
        capabilities: Of the same model.
        messages: As `messages.prepare` returns them.
        n: How many samples to ask for.
        stream: In pieces.
        prompt_cache: Instead of the settings' own.
        credentials: As `resolve_credentials` returns them; without them the request has no key.

    Raises:
        ConfigError: See `options.dropped_options`.
        UnsupportedFeatureError: See there.
        ValueError: `n` is more than 1 where the model has no native `n`.
    """
    settled = settle(settings, capabilities, prompt_cache=prompt_cache)
    seller = provider_of(settings)
    route_name = (settings.custom_llm_provider or seller.route).lower()
    request: dict[str, Any] = {"model": _litellm_model(settings, seller, route_name)}
    request["messages"] = thaw(list(messages))
    request.update(settled.values)
    if settled.prompt_cache and capabilities.cache_breakpoints:
        mark_cache(request["messages"], request.get("tools", []))
    if n > 1:
        if not (capabilities.streams_native_n if stream else capabilities.native_n):
            raise ValueError(f"{settings.name} gives one sample a request, so n has to be 1, not {n}")
        request["n"] = n
    if stream:
        request["stream"] = True
    if settings.extra_body:
        request["extra_body"] = HiddenValues(thaw(settings.extra_body))
    if credentials is not None:
        request.update(_access(credentials, seller))
    if allowed := _allowed(request, capabilities, route_name):
        request["allowed_openai_params"] = allowed
    return request


def _litellm_model(settings: ModelSettings, seller: Provider, route_name: str) -> str:
    """`route/name`, where the config's name may have the prefix already."""
    name = settings.name
    # Behind an address of the user's own, "openai/gpt-oss-120b" is what the server calls its model.
    is_own = name in seller.own_prefix or (settings.base_url is not None and route_name in OPENAI_LIKE)
    prefixes = () if is_own else dict.fromkeys((route_name, seller.name, settings.provider.lower()))
    for prefix in prefixes:
        if name.lower().startswith(f"{prefix}/"):
            name = name[len(prefix) + 1 :]
            break
    return f"{route_name}/{name}"


def _access(credentials: Credentials, seller: Provider) -> dict[str, Any]:
    access: dict[str, Any] = {
        "api_key": credentials.api_key,
        "api_base": credentials.base_url and normalised_url(credentials.base_url, seller),
        "api_version": credentials.api_version,
        "extra_headers": HiddenValues(credentials.extra_headers),
    }
    return {name: value for name, value in access.items() if value}


def _allowed(request: Mapping[str, Any], capabilities: Capabilities, route_name: str) -> list[str]:
    """Options that litellm's lists lack: it would raise for them."""
    forced = set(capabilities.forced_options)
    if request.get(EFFORT) in find_route(route_name).forwards_efforts:
        forced.add(EFFORT)
    # litellm knows only the models of today's registry to think; the mark is the same on the wire.
    forced.add("thinking")
    allowed = {option for option in forced if option in request}
    if route_name in IGNORE_MAX_RETRIES:
        allowed.add("max_retries")  # which the transport adds
    return sorted(allowed)


def _key(seller: Provider, model: str, also: Sequence[str], environ: Mapping[str, str] | None) -> str | None:
    variable, found = _first((*seller.key_variables, *also), environ)
    if found is not None:
        where = f"models.{model}: the environment variable {variable}"
        check_key(found, ("api_key",), where=where, model=model)
        return found
    if not seller.needs_key:
        return seller.placeholder_key
    if _first(seller.other_credentials, environ)[1] is not None:
        return None
    first, *others = (*seller.key_variables, *also)
    instead = f" (nor is {' or '.join(others)})" if others else ""
    raise CredentialError(
        f"models.{model}: no api_key, and the environment variable {first} is not set{instead}; set it, or "
        f'write api_key = "env:NAME" with the variable that holds the key (model "{model}")',
        model=model,
        variable=first,
    )


def _first(names: Sequence[str], environ: Mapping[str, str] | None) -> tuple[str, str] | tuple[None, None]:
    """The first of these variables that is set, and its text."""
    for name in names:
        if value := look_up(name, environ):
            return name, value
    return None, None
