"""Requests to the API server as plain dicts. Configuration, authentication and connections are `kubernetes.aio`'s;
its generated methods are not used, because they build and check a model of every answer.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import yaml
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from adts_api.contract import ExitCode
from adts_api.errors import AdtsError

Object = dict[str, Any]

CORE: Final = "/api/v1"
GROUPS: Final = {
    "pods": CORE,
    "services": CORE,
    "configmaps": CORE,
    "secrets": CORE,
    "events": CORE,
    "namespaces": CORE,
    "distributedtrainings": "/apis/adts.dev/v1alpha1",
    "leases": "/apis/coordination.k8s.io/v1",
}
"""Where the collections live that we use. Others are addressed by a GVK's own path, see `collection`."""

FIELD_MANAGER = "adts-operator"
IN_FLIGHT = 50
"""Requests under way at once: where the API server's rate levels off."""
TIMEOUT_SECONDS = 15.0
CONNECT_SECONDS = 5.0
PAGE = 250
RETRIES = 3
WATCH_SECONDS = 300
WATCH_SILENCE_SECONDS = 90.0
"""Longest silence of a watch: the server sends a bookmark every minute."""


class ApiError(AdtsError):
    """The API server refused a request or could not be reached (status 0). Holds the parts of the `Status` object."""

    exit_code = ExitCode.CRASH

    def __init__(self, status: int, reason: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status, self.reason, self.message, self.details = status, reason, message, dict(details or {})

    @property
    def is_transient(self) -> bool:
        """Whether the same request may succeed later without anybody changing anything."""
        return self.status in (0, 408, 429) or self.status >= 500


class TokenBucket:
    """At most `burst` at once and `rate` per second: what other clients of the API server may count on."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, float(burst), clock
        self._tokens, self._at = float(burst), clock()

    async def take(self) -> None:
        """Waits until a token is there."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate) - 1.0
        self._at = now
        if self._tokens < 0.0:
            await asyncio.sleep(-self._tokens / self._rate)


def collection(plural: str, namespace: str = "", name: str = "", subresource: str = "", *, group: str = "") -> str:
    """Path of a collection or of one object in it. `group`: `/apis/<group>/<version>` for what is not in GROUPS."""
    parts = [group or GROUPS[plural]]
    if namespace:
        parts += ["namespaces", namespace]
    parts += [part for part in (plural, name, subresource) if part]
    return "/".join(parts)


class Api:
    """A connection to one API server. Every method raises ApiError, and nothing else, where a request fails."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        bucket: TokenBucket | None = None,
        on_answer: Callable[[str, str, int], None] = lambda verb, resource, code: None,
    ) -> None:
        """`on_answer(verb, resource, code)` is told of every request, code 0 where there was no answer."""
        configuration.connection_pool_maxsize = 0  # the semaphore limits requests; watches come on top
        configuration.client_session_kwargs = {"trust_env": False}  # else every request looks for a .netrc, in a thread
        configuration.proxy = configuration.proxy or _proxy_of(configuration.host)
        self._client = ApiClient(configuration)
        self._configuration = configuration
        self._bucket = bucket
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._on_answer = on_answer

    @classmethod
    async def connect(cls, *, kubeconfig: str | None = None, context: str | None = None, **options: Any) -> Api:
        """Inside a pod by its service account, elsewhere by the kubeconfig. Raises ApiError where there is neither."""
        configuration = Configuration()
        try:
            if kubeconfig is None and context is None:
                try:
                    config.load_incluster_config(client_configuration=configuration)
                    return cls(configuration, **options)
                except config.ConfigException:
                    pass
            await config.load_kube_config(
                config_file=kubeconfig, context=context, client_configuration=configuration, persist_config=False
            )
        except (config.ConfigException, OSError, yaml.YAMLError, TypeError) as error:
            fix = "set KUBECONFIG or use --kubeconfig"
            raise ApiError(0, "NoConfiguration", f"no cluster is configured: {error}; {fix}") from error
        return cls(configuration, **options)

    @property
    def host(self) -> str:
        return str(self._configuration.host)

    async def close(self) -> None:
        """Ends all connections."""
        await self._client.close()

    async def get(self, path: str, **query: Any) -> Object:
        return await self._send("GET", path, query=query)

    async def create(self, path: str, body: Object, *, dry_run: bool = False) -> Object:
        if dry_run:  # counted under a verb of its own: it changes nothing
            query = {"dryRun": "All", "fieldValidation": "Strict"}  # an unknown field is dropped without a word else
            return await self._send("POST", path, body, query=query, verb="TRY")
        return await self._send("POST", path, body)

    async def replace(self, path: str, body: Object) -> Object:
        """PUT; a resourceVersion in the body makes it fail with 409 where somebody wrote meanwhile."""
        return await self._send("PUT", path, body)

    async def merge(self, path: str, body: Object) -> Object:
        """PATCH as JSON merge patch."""
        return await self._send("PATCH", path, body, content_type="application/merge-patch+json")

    async def apply(self, path: str, body: Object) -> Object:
        """PATCH as server-side apply under our one field manager."""
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._send("PATCH", path, body, query=query, content_type="application/apply-patch+yaml")

    async def delete(self, path: str, *, grace_seconds: int | None = None, uid: str = "") -> Object:
        """DELETE; with a UID only that object: another one of its name answers 409. What is gone already is no error:
        the answer is then empty, else the object as it is on its way out.
        """
        body: Object = {"propagationPolicy": "Background"}
        if grace_seconds is not None:
            body["gracePeriodSeconds"] = grace_seconds
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            return await self._send("DELETE", path, body)
        except ApiError as error:
            if error.status != 404:
                raise
            return {}

    async def pages(self, path: str, **query: Any) -> AsyncIterator[Object]:
        """The pages of a list, a few hundred objects each."""
        token = ""
        while True:
            page = await self.get(path, limit=PAGE, **query, **({"continue": token} if token else {}))
            yield page
            token = page["metadata"].get("continue", "")
            if not token:
                return

    async def watch(self, path: str, resource_version: str, **query: Any) -> AsyncIterator[Object]:
        """The events after a resource version, bookmarks included, until the server ends the stream.

        Raises ApiError as well where the stream breaks, says an ERROR (410: list again) or is silent for too long.
        """
        query |= {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": WATCH_SECONDS,
        }
        async for line in self.lines(path, read_seconds=WATCH_SILENCE_SECONDS, verb="WATCH", **query):
            event = json.loads(line)
            if event["type"] == "ERROR":
                raise _error(int(event["object"].get("code", 0)), event["object"])
            yield event

    async def text(self, path: str, **query: Any) -> str:
        """The body of a GET that is no JSON, such as a log or an answer through the API server's proxy."""
        response = await self._request("GET", path, query=query, timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS))
        try:
            return await response.text(errors="replace")
        except (OSError, aiohttp.ClientError, TimeoutError) as error:
            raise _unreachable(self.host, error) from error

    async def lines(
        self, path: str, *, read_seconds: float | None = None, verb: str = "GET", **query: Any
    ) -> AsyncIterator[bytes]:
        """The lines of a stream, as they come, without their ends; any length."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=read_seconds)
        response = await self._request("GET", path, query=query, timeout=timeout, verb=verb)
        rest = b""
        try:
            async for chunk in response.content.iter_any():
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    yield line
            if rest:
                yield rest
        except (OSError, aiohttp.ClientError, TimeoutError) as error:
            raise _unreachable(self.host, error) from error
        finally:
            response.close()

    async def _send(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        verb: str = "",
    ) -> Object:
        """One request whose answer is JSON; sent again after a pause where the server asks for that (429)."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS, sock_connect=CONNECT_SECONDS)
        for remaining in reversed(range(RETRIES)):
            try:
                async with self._slots:
                    if self._bucket is not None:
                        await self._bucket.take()
                    response = await self._request(
                        method, path, body, query=query, content_type=content_type, timeout=timeout, verb=verb
                    )
                    answer: Object = json.loads(await response.read())
                    return answer
            except ApiError as error:
                if error.status != 429 or not remaining:
                    raise
                await asyncio.sleep(min(float(error.details.get("retryAfterSeconds", 1)), TIMEOUT_SECONDS))
            except (OSError, aiohttp.ClientError, TimeoutError, ValueError) as error:
                raise _unreachable(self.host, error) from error
        raise AssertionError("unreachable")

    async def _request(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        timeout: aiohttp.ClientTimeout,
        verb: str = "",
    ) -> aiohttp.ClientResponse:
        """The answer's head, its body yet to be read. Raises ApiError for a code of 400 and above."""
        headers = {"Accept": "application/json", "Content-Type": content_type}
        url = f"{self.host}{path}?{urlencode(query)}" if query else f"{self.host}{path}"
        verb, resource, code = verb or method, resource_of(path), 0
        try:
            await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
            answer = await self._client.rest_client.request(
                method, url, headers=headers, body=body, _request_timeout=timeout
            )
            response: aiohttp.ClientResponse = answer.response
            code = response.status
            if code >= 400:
                raise _error(code, await _status_object(response))
            return response
        except (OSError, aiohttp.ClientError, TimeoutError) as error:
            raise _unreachable(self.host, error) from error
        finally:
            self._on_answer(verb, resource, code)


def resource_of(path: str) -> str:
    """The plural in a path, for a label with few values: `pods`, `pods/log`, `distributedtrainings/status`."""
    parts = path.split("/")[3 if path.startswith(CORE) else 4 :]
    if len(parts) > 2 and parts[0] == "namespaces":
        parts = parts[2:]
    return "/".join(parts[0:1] + parts[2:3]) or "discovery"


def _proxy_of(host: str) -> str | None:
    """The proxy that the environment names for a host, as kubectl reads it (HTTPS_PROXY, NO_PROXY)."""
    url = urlsplit(host)
    return None if proxy_bypass(url.netloc) else getproxies().get(url.scheme)


async def _status_object(response: aiohttp.ClientResponse) -> Object:
    text = await response.text(errors="replace")
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    status: Object = answer if isinstance(answer, dict) else {"message": text[:500]}
    if retry_after := response.headers.get("Retry-After", ""):
        status.setdefault("details", {}).setdefault("retryAfterSeconds", retry_after)
    return status


def _error(code: int, status: Mapping[str, Any]) -> ApiError:
    message = str(status.get("message") or f"the API server answered {code}")
    return ApiError(code, str(status.get("reason", "")), message, status.get("details"))


def _unreachable(host: str, error: Exception) -> ApiError:
    return ApiError(0, "Unreachable", f"{host} does not answer: {type(error).__name__}: {error}")
